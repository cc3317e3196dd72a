"""A table of measurements: which columns are targets, of what kind and unit, and their labels."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float64, Int8

from moleblend.data.labels.cell_values import (
    COMMA,
    DATE,
    ColumnValues,
    may_have_thousands,
    read_column_values,
    read_number,
)
from moleblend.data.labels.column_names import words_of
from moleblend.data.labels.label_column import (
    LabelColumn,
    Task,
    is_few,
    is_pair,
    read_label_column,
)
from moleblend.data.labels.qualifier_columns import holds_signs, read_signs, read_units
from moleblend.data.table import Table

_IDENTIFIERS = frozenset(
    [
        "id",
        "ids",
        "idx",
        "index",
        "no",
        "num",
        "number",
        "row",
        "rows",
        "nr",
        "cid",
        "sid",
        "cas",
        "casrn",
        "key",
        "inchikey",
        "inchi",
        "code",
        "ref",
        "reference",
        "lot",
        "batch",
        "plate",
        "well",
        "doi",
        "pmid",
        "barcode",
        "smiles",
        "name",
        "compound",
        "molecule",
        "unnamed",
    ]
)
"""Last words of names of columns that say which row it is."""

_DATES = frozenset(["date", "datum", "timestamp", "year", "month"])

_COMPUTED = frozenset(
    [
        "predicted",
        "prediction",
        "pred",
        "prob",
        "std",
        "calc",
        "calculated",
        "computed",
        "simulated",
        "clogp",
        "alogp",
        "xlogp",
        "slogp",
        "mlogp",
        "wlogp",
        "tpsa",
        "psa",
        "hba",
        "hbd",
        "mw",
        "molwt",
        "amw",
        "exactmass",
        "fsp3",
        "rotb",
        "qed",
        "docking",
        "descriptor",
    ]
)
_COMPUTED_PHRASES = (
    *("molecular weight", "mol weight", "mol wt", "molecular mass", "polar surface", "h bond"),
    *("hydrogen bond", "rotatable", "number of", "heavy atom", "ring count", "atom count"),
    *("minimum degree", "formal charge", "molar refractivity", "num "),
)

_MEASURED = re.compile(
    r"(^|[^a-z])(p?(ic|ec|ac|gi|cc|ed|ld|lc|tc)[ _-]?\d\d|p?k[idbm]|measured|exp|expt|experimental|"
    r"observed|activity|active|potency|affinity|solubility|permeability|clearance|inhibition|"
    r"toxicity|log[sdp]|half[ _-]?life|label|target|class|y)($|[^a-z])"
)
"""Names that say that the column was measured, or is what should be learnt."""

_PARTS = frozenset(["train", "valid", "val", "validation", "test"])
_OF_PARTS = "says train, valid or test"
_FEW_TEXTS = "is text, with few different ones"
_MOST_NAMED = 12


@dataclass(frozen=True, eq=False)
class TargetColumns:
    """The targets of a table.

    Attributes:
        label_columns: the labels of each target.
        units: of each target; empty where unknown.
        left_out: the other columns, and why each is no target; empty where targets were named.
        notes: what the user should be told, one sentence each.
        relations: of targets, the column from which the signs of their bounds are read.
        units_from: of each unit, `flag`, `header` or `column NAME`; empty where unknown.
    """

    label_columns: tuple[LabelColumn, ...]
    units: tuple[str, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]
    relations: dict[str, str]
    units_from: tuple[str, ...]

    @property
    def values(self) -> Float64[np.ndarray, "n t"]:
        """Labels; NaN where missing."""
        return np.stack([measurement.values for measurement in self.label_columns], 1)

    @property
    def censoring(self) -> Int8[np.ndarray, "n t"]:
        """1 and -1 where a label is only a bound."""
        return np.stack([measurement.censoring for measurement in self.label_columns], 1)

    def problems(self, row: int) -> str:
        """Say which cells of a row (from 0) are no labels."""
        return "; ".join(
            f"{measurement.name}: {measurement.problems[row]}"
            for measurement in self.label_columns
            if row in measurement.problems
        )


def read_target_columns(
    table: Table,
    targets: Sequence[str] = (),
    *,
    tasks: Sequence[Task] = ("auto",),
    units: Sequence[str] = (),
    log_scale: Sequence[str] = (),
    relation: str = "auto",
    not_targets: Sequence[str] = (),
) -> TargetColumns:
    """Read the labels of a table.

    Args:
        table: the rows.
        targets: the columns; left out, they are found.
        tasks: the kind of each target, or one for all.
        units: of each target; left out, they are taken from headers and columns of units.
        log_scale: targets of which the logarithm will be learnt.
        relation: the column of signs of bounds, see `beside.read_signs`.
        not_targets: columns that are something else: the SMILES, the split.

    Raises:
        ValueError: no target, or none that is clear, is found; a column is missing; or more than
            half of its cells are no labels.
    """
    left_out: dict[str, str] = {}
    notes: list[str] = []
    if relation not in ("auto", "none"):
        not_targets = [*not_targets, relation]
    if not targets:
        targets, left_out, notes = find_targets(table, not_targets)
    for told, given in (("units", units), ("tasks", tasks if len(tasks) > 1 else ())):
        if given and len(given) != len(targets):
            raise ValueError(f"{len(targets)} targets, but {len(given)} {told}: one for each")
    unknown = [name for name in log_scale if name not in targets]
    if unknown:
        raise ValueError(f"--log-scale names {unknown[0]!r}, which is no target of this run")
    each = tasks if len(tasks) > 1 else [*tasks] * len(targets)
    label_columns = tuple(
        read_label_column(table, name, task, log10=name in log_scale)
        for name, task in zip(targets, each, strict=True)
    )
    for measurement in label_columns:
        notes += measurement.notes

    @cache
    def rivals() -> list[str]:
        looked_at = _looked_at(table, {*targets, *not_targets})
        return [name for name, _, reason in looked_at if not reason]

    label_columns, relations, told = read_signs(table, label_columns, relation, not_targets, rivals)
    notes += told
    found, units_from, told = read_units(table, label_columns, units, not_targets, rivals)
    notes += told
    for measurement in label_columns:
        notes += _of_points(table, measurement)
    return TargetColumns(label_columns, found, left_out, tuple(notes), relations, units_from)


def _of_points(table: Table, measurement: LabelColumn) -> list[str]:
    """Tell that 1.500 may be 1500 in a table whose other numbers have decimal commas."""
    if measurement.kind != "regression":
        return []
    cells = read_column_values(table, measurement.name)
    if cells is None or not may_have_thousands(cells):
        return []
    for name in dict.fromkeys(table.names):
        other = read_column_values(table, name) if table.names.count(name) == 1 else None
        if other is not None and other.has_commas:
            text = next(t for t in cells.texts if "." in t and not read_number(t).problem)
            told = f"{measurement.name!r}: {text} is read with a decimal point, but {name!r} has "
            return [told + f"decimal commas; if it is {text.replace('.', '')}, write it so"]
    return []


def find_targets(
    table: Table, not_targets: Sequence[str] = ()
) -> tuple[tuple[str, ...], dict[str, str], list[str]]:
    """Find the columns that were measured.

    All candidates are taken where there is one, or where all are binary. Otherwise one whose name
    alone says that it was measured is taken, and the others are named.

    Returns:
        The targets; the other columns, and why each is none; what should be told.

    Raises:
        ValueError: there is no candidate, or several and none stands out.
    """
    left_out: dict[str, str] = {}
    candidates: dict[str, bool] = {}
    for name, cells, reason in _looked_at(table, not_targets):
        if cells is None or reason:
            left_out[name] = reason
        else:
            candidates[name] = _is_binary(cells)
    notes = [
        f"column {name!r} {reason}: --split {name} would use it"
        for name, reason in left_out.items()
        if reason == _OF_PARTS
    ]
    named = [name for name in candidates if _MEASURED.search(name.lower())]
    few = [name for name, reason in left_out.items() if reason == _FEW_TEXTS]
    if not candidates and len(few) == 1:
        del left_out[few[0]]
        notes.append(f"{few[0]!r} has few different texts, which are taken as classes")
        return (few[0],), left_out, notes
    if not candidates:
        told = "; ".join(f"{name!r} {why}" for name, why in list(left_out.items())[:_MOST_NAMED])
        raise ValueError(
            f"{table.source}: no column looks measured ({told or 'there is no other column'}); "
            "--target COLUMN names it"
        )
    if len(candidates) == 1 or all(candidates.values()):
        return tuple(candidates), left_out, notes
    if len(named) == 1:
        others = [name for name in candidates if name != named[0]]
        left_out |= dict.fromkeys(others, "has no name that says it was measured")
        notes.append(
            f"{_listed(others)} could be learnt too, but only the name of {named[0]!r} says that "
            "it was measured; --target COLUMN ... decides otherwise"
        )
        return (named[0],), left_out, notes
    n_more = len(candidates) - len(named) if named else 0
    more = f" (and {n_more:,} whose names say less)" if n_more else ""
    raise ValueError(
        f"{table.source}: {len(candidates)} columns could be the target: "
        f"{_listed(named or list(candidates))}{more}; say which with --target COLUMN ..."
    )


def _looked_at(
    table: Table, others: Collection[str]
) -> Iterator[tuple[str, ColumnValues | None, str]]:
    """Give each column but these, its cells, and why it is no target; empty where it may be one."""
    for name in dict.fromkeys(table.names):
        if name in others:
            continue
        cells = read_column_values(table, name) if table.names.count(name) == 1 else None
        reason = "holds lists, or stands twice" if cells is None else why_no_target(name, cells)
        yield name, cells, reason


def why_no_target(name: str, cells: ColumnValues) -> str:
    """Say why a column is no target; nothing where it may be one."""
    words = words_of(name)
    squeezed, spaced = re.sub(r"[\W_]", "", name.lower()), " ".join([*words, ""])
    if not cells.texts:
        return "is empty"
    if {text.lower() for text in cells.texts} <= _PARTS:
        return _OF_PARTS
    if holds_signs(cells):
        return "holds signs of bounds"
    if not words or words[-1] in _IDENTIFIERS or words[0] in ("id", "unnamed", "index"):
        return "names or numbers the rows"
    if squeezed in _IDENTIFIERS:
        return "names or numbers the rows"
    if _DATES & set(words):
        return "is a date"
    share = cells.counts[[bool(DATE.fullmatch(text)) for text in cells.texts]].sum()
    if share > 0.5 * cells.counts.sum():
        return "is a date"
    if _is_binary(cells):
        return ""
    if (
        squeezed in _COMPUTED
        or _COMPUTED & set(words)
        or any(p in spaced for p in _COMPUTED_PHRASES)
    ):
        return "has the name of something computed"
    readings = [read_number(text) for text in cells.texts]
    is_number = np.array([not reading.problem for reading in readings])
    if cells.counts[is_number].sum() < 0.5 * cells.counts.sum():
        if is_pair(cells) or (is_few(cells) and _MEASURED.search(name.lower())):
            return ""
        has_comma = [reading.problem.endswith(COMMA) for reading in readings]
        if cells.counts[has_comma].sum() > 0.5 * cells.counts.sum():
            return COMMA
        return _FEW_TEXTS if is_few(cells) else "is text"
    values = np.array([*(reading.value for reading in readings), np.nan])[cells.which]
    known = values[~np.isnan(values)]
    is_counted = len(known) >= 5 and (known == known.round()).all() and (np.diff(known) > 0).all()
    return "counts the rows" if is_counted else ""


def _is_binary(cells: ColumnValues) -> bool:
    """Whether all cells are 0 and 1, or a pair of opposites, each in some row."""
    if not 2 <= len(cells.texts) <= 6:
        return False
    readings = [read_number(text) for text in cells.texts]
    if all(not r.problem and not r.bound and r.value in (0.0, 1.0) for r in readings):
        return len({reading.value for reading in readings}) == 2
    return is_pair(cells)


def _listed(names: Sequence[str]) -> str:
    told = ", ".join(map(repr, names[:_MOST_NAMED]))
    return told + (f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else "")


def notes_of_cells(table: Table, measurement: LabelColumn) -> list[str]:
    """Say how many cells of a target are bounds, approximate, or no labels."""
    told = []
    n_censored, problems = int(np.count_nonzero(measurement.censoring)), measurement.problems
    if n_censored:
        told.append(
            f"{measurement.name!r}: labels that are bounds, such as >10: {n_censored:,}; "
            "they count only where a prediction is on the wrong side"
        )
    if measurement.n_approximate:
        told.append(
            f"{measurement.name!r}: labels that are approximate (~): "
            f"{measurement.n_approximate:,}; they are taken as they stand"
        )
    if problems:
        first = min(problems)
        told.append(
            f"{measurement.name!r}: cells that are no labels and are left out: {len(problems):,}; "
            f"the first is in {table.place(first)}: {problems[first]}"
        )
    return told
