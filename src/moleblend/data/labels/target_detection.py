"""Target detection: which columns of a table are targets, their kinds, units and labels."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Float64, Int8

from moleblend.data.labels.cell_values import (
    COMMA,
    DATE,
    ColumnValues,
    TableCells,
    may_have_thousands,
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
from moleblend.data.labels.measurement_types import mixed_type_notes
from moleblend.data.labels.qualifier_columns import holds_qualifiers, read_qualifiers, read_units
from moleblend.data.table import Table
from moleblend.errors import TableError

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
"""Last words of the names of columns that identify the row."""

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
"""Names of columns that were measured, or are meant as targets."""

_ERRORS = frozenset(["sd", "std", "stdev", "sem", "stderr", "error", "err", "variance", "rsd"])
"""Words in the names of columns that hold the error of another column."""

_SET_NAMES = frozenset(["train", "valid", "val", "validation", "test"])
_HOLDS_SETS = "holds the words train, valid and test"
_FEW_TEXTS = "is text with few distinct values"
_MOST_NAMED = 12


@dataclass(frozen=True, eq=False)
class TargetColumns:
    """The targets of a table.

    Attributes:
        label_columns: labels of each target.
        units: unit of each target; empty where unknown.
        left_out: reason why each other column is not a target; empty where targets were named.
        notes: messages for the user, one sentence each.
        relations: column of qualifiers, by target.
        units_from: source of each unit, `flag`, `header` or `column NAME`; empty where unknown.
    """

    label_columns: tuple[LabelColumn, ...]
    units: tuple[str, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]
    relations: dict[str, str]
    units_from: tuple[str, ...]

    def without(self, names: Collection[str]) -> "TargetColumns":
        """Leave out some targets."""
        kept = [k for k, column in enumerate(self.label_columns) if column.name not in names]
        return replace(
            self,
            label_columns=tuple(self.label_columns[k] for k in kept),
            units=tuple(self.units[k] for k in kept),
            units_from=tuple(self.units_from[k] for k in kept),
        )

    @property
    def values(self) -> Float64[np.ndarray, "n t"]:
        """Labels; NaN where missing."""
        return np.stack([label_column.values for label_column in self.label_columns], 1)

    @property
    def censoring(self) -> Int8[np.ndarray, "n t"]:
        """1 if the true value is at least the label, -1 if at most, 0 if exact."""
        return np.stack([label_column.censoring for label_column in self.label_columns], 1)

    def problems(self, row: int) -> str:
        """Describe the cells of a row (from 0) that are not labels."""
        return "; ".join(
            f"{label_column.name}: {label_column.problems[row]}"
            for label_column in self.label_columns
            if row in label_column.problems
        )


def read_target_columns(
    table: Table,
    targets: Sequence[str] = (),
    *,
    tasks: Sequence[Task] = ("auto",),
    units: Sequence[str] = (),
    log_scale: Sequence[str] = (),
    qualifier: str = "auto",
    not_targets: Sequence[str] = (),
) -> TargetColumns:
    """Read the labels of a table. Each column is read once.

    Args:
        table: the rows.
        targets: the columns; detected by default.
        tasks: the kind of each target, or one kind for all.
        units: of each target; by default from column names and columns of units.
        log_scale: targets on whose logarithm the model will be trained.
        qualifier: the column of qualifiers, see `qualifier_columns.read_qualifiers`.
        not_targets: columns with another purpose: the SMILES, the split.

    Raises:
        TableError: no target is found, or several and the choice is ambiguous; a column is
            missing; or more than half of its cells are not labels.
    """
    table_cells = TableCells(table)
    left_out: dict[str, str] = {}
    notes: list[str] = []
    if qualifier not in ("auto", "none"):
        not_targets = [*not_targets, qualifier]
    if not targets:
        targets, left_out, notes = find_targets(table_cells, not_targets)
    hopeless = _nothing_to_learn(table_cells, targets)
    if hopeless and len(hopeless) == len(targets):
        name, reason = next(iter(hopeless.items()))
        raise TableError(f"{table.source}: column {name!r} {reason}, there is nothing to learn")
    for argument, given in (("units", units), ("tasks", tasks if len(tasks) > 1 else ())):
        if given and len(given) != len(targets):
            raise TableError(
                f"got {len(given)} {argument} for {len(targets)} targets, expected one for each"
            )
    unknown = [name for name in log_scale if name not in targets]
    if unknown:
        raise TableError(
            f"--log-scale: {unknown[0]!r} is not a target; targets: {_listed(targets)}"
        )
    each_task = tasks if len(tasks) > 1 else [*tasks] * len(targets)
    label_columns = tuple(
        read_label_column(table_cells, name, task, log10=name in log_scale)
        for name, task in zip(targets, each_task, strict=True)
        if name not in hopeless
    )
    if hopeless:
        units = [unit for unit, name in zip(units, targets, strict=True) if name not in hopeless]
        targets = [name for name in targets if name not in hopeless]
        notes.append(left_out_note(hopeless))
    for label_column in label_columns:
        notes += label_column.notes

    @cache
    def other_measured() -> list[str]:
        return measured_columns(table_cells, {*targets, *not_targets})

    label_columns, relations, qualifier_notes = read_qualifiers(
        table_cells, label_columns, qualifier, not_targets, other_measured
    )
    target_units, units_from, unit_notes = read_units(
        table_cells, label_columns, units, not_targets, other_measured
    )
    notes += [*qualifier_notes, *unit_notes]
    notes += mixed_type_notes(table_cells, {*targets, *not_targets})
    for label_column in label_columns:
        notes += _decimal_point_notes(table_cells, label_column)
    return TargetColumns(label_columns, target_units, left_out, tuple(notes), relations, units_from)


def _nothing_to_learn(table_cells: TableCells, targets: Sequence[str]) -> dict[str, str]:
    """Return why targets cannot be learned: they have no label, or one value only."""
    reasons = {}
    for name in targets:
        cells = table_cells[name]
        if cells is None or (len(targets) == 1 and not cells.texts):
            continue
        if not cells.texts:
            reasons[name] = "has no labels"
        elif _is_one_text(cells) or (len(targets) > 1 and _is_one_class(cells)):
            reasons[name] = "has one value only"
    return reasons


def left_out_note(reasons: Mapping[str, str]) -> str:
    """Name the targets that are left out, by their reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    parts = [f"{_listed(names)} {reason}" for reason, names in by_reason.items()]
    count = "1 column is" if len(reasons) == 1 else f"{len(reasons):,} columns are"
    return f"{count} left out: {'; '.join(parts)}"


def _decimal_point_notes(table_cells: TableCells, label_column: LabelColumn) -> list[str]:
    """Warn that 1.500 may be 1500 in a table whose other numbers have decimal commas."""
    if label_column.kind != "regression":
        return []
    cells, table = table_cells[label_column.name], table_cells.table
    if cells is None or not may_have_thousands(cells):
        return []
    for name in dict.fromkeys(table.names):
        other = table_cells[name] if table.names.count(name) == 1 else None
        if other is not None and other.has_commas:
            text = next(t for t in cells.texts if "." in t and not read_number(t).problem)
            note = f"{label_column.name!r}: {text} is read with a decimal point, but {name!r} has "
            other_value = text.replace(".", "")
            return [
                note + f"decimal commas; if the value is {other_value}, write it without a point"
            ]
    return []


def find_targets(
    table_cells: TableCells, not_targets: Sequence[str] = ()
) -> tuple[tuple[str, ...], dict[str, str], list[str]]:
    """Find the columns that were measured.

    A single candidate is selected, and so are several if all are binary. Otherwise, if the name of
    exactly one candidate shows that it was measured, that one is selected.

    Returns:
        The targets; the reason why each other column is not a target; messages for the user.

    Raises:
        TableError: there is no candidate, or the choice among several is ambiguous.
    """
    table = table_cells.table
    left_out: dict[str, str] = {}
    candidates: dict[str, bool] = {}
    for name, cells, reason in _examine_columns(table_cells, not_targets):
        if cells is None or reason:
            left_out[name] = reason
        else:
            candidates[name] = _is_binary(cells)
    proteins = _protein_columns(table_cells, candidates)
    left_out |= dict.fromkeys(proteins, "names what was tested, not the result")
    errors = [name for name in candidates if _ERRORS & set(words_of(name))]
    if len(errors) < len(candidates):
        left_out |= dict.fromkeys(errors, "has the name of the error of another column")
    constant = [name for name in candidates if _has_one_class(table_cells, name)]
    if len(constant) < len(candidates):
        left_out |= dict.fromkeys(constant, "has one value only")
    candidates = {name: pair for name, pair in candidates.items() if name not in left_out}
    notes = [
        f"column {name!r} {reason}; --split {name} uses it as the split"
        for name, reason in left_out.items()
        if reason == _HOLDS_SETS
    ]
    measured = [
        name
        for name in candidates
        if _MEASURED.search(name.lower()) and not _may_be_numbers_of_proteins(table_cells, name)
    ]
    few = [name for name, reason in left_out.items() if reason == _FEW_TEXTS]
    if not candidates and len(few) == 1:
        del left_out[few[0]]
        notes.append(f"{few[0]!r} is text with few distinct values, which are used as classes")
        return (few[0],), left_out, notes
    if not candidates:
        reasons = [f"{name!r} {why}" for name, why in list(left_out.items())[:_MOST_NAMED]]
        raise TableError(
            f"{table.source}: no column looks measured "
            f"({'; '.join(reasons) or 'there is no other column'}); --target COLUMN names it"
        )
    if len(candidates) == 1 or all(candidates.values()):
        return tuple(candidates), left_out, notes
    if len(measured) == 1:
        others = [name for name in candidates if name != measured[0]]
        left_out |= dict.fromkeys(others, "has a name that does not show that it was measured")
        notes.append(
            f"{_listed(others)} could be targets too, but only the name of {measured[0]!r} shows "
            "that it was measured; --target COLUMN ... selects others"
        )
        return (measured[0],), left_out, notes
    n_more = len(candidates) - len(measured) if measured else 0
    more = f" (and {n_more:,} with less specific names)" if n_more else ""
    raise TableError(
        f"{table.source}: {len(candidates)} columns could be the target: "
        f"{_listed(measured or list(candidates))}{more}; select with --target COLUMN ..."
    )


def _protein_columns(table_cells: TableCells, candidates: Collection[str]) -> list[str]:
    """List columns called `target` that name proteins: words or a few whole numbers.

    They are listed only if there is a candidate with more different numbers.
    """
    distinct = {}
    for name in candidates:
        cells = table_cells[name]
        texts = [] if cells is None else cells.texts
        distinct[name] = {text for text in texts if not read_number(text).problem}
    found = []
    for name in candidates:
        cells = table_cells[name]
        if words_of(name)[:1] != ["target"] or cells is None:
            continue
        are_names = not distinct[name] or all(text.isdecimal() for text in distinct[name])
        others = [len(values) for other, values in distinct.items() if other != name]
        if are_names and not _is_zero_one(cells) and max(others, default=0) > len(cells.texts):
            found.append(name)
    return found


def _may_be_numbers_of_proteins(table_cells: TableCells, name: str) -> bool:
    """Check for a column called `target` of whole numbers other than 0 and 1."""
    cells = table_cells[name]
    if cells is None or words_of(name)[:1] != ["target"] or _is_zero_one(cells):
        return False
    return all(text.isdecimal() for text in cells.texts)


def _has_one_class(table_cells: TableCells, name: str) -> bool:
    cells = table_cells[name]
    return cells is not None and _is_one_class(cells)


def _is_one_text(cells: ColumnValues) -> bool:
    return len(cells.texts) == 1 and bool(read_number(cells.texts[0]).problem)


def _is_one_class(cells: ColumnValues) -> bool:
    return len(cells.texts) == 1 and _is_zero_one(cells)


def _is_zero_one(cells: ColumnValues) -> bool:
    return set(cells.texts) <= {"0", "1"}


def measured_columns(table_cells: TableCells, others: Collection[str]) -> list[str]:
    """Return the columns, except `others`, that could be targets."""
    return [name for name, _, reason in _examine_columns(table_cells, others) if not reason]


def _examine_columns(
    table_cells: TableCells, others: Collection[str]
) -> Iterator[tuple[str, ColumnValues | None, str]]:
    """Yield the columns, except `others`, their cells, and why each is not a target, if so."""
    names = table_cells.table.names
    for name in dict.fromkeys(names):
        if name in others:
            continue
        cells = table_cells[name] if names.count(name) == 1 else None
        reason = "holds lists, or occurs twice" if cells is None else why_no_target(name, cells)
        yield name, cells, reason


def why_no_target(name: str, cells: ColumnValues) -> str:
    """Explain why a column is not a target; empty if it may be one."""
    words = words_of(name)
    squeezed, spaced = re.sub(r"[\W_]", "", name.lower()), " ".join([*words, ""])
    if not cells.texts:
        return "is empty"
    if {text.lower() for text in cells.texts} <= _SET_NAMES:
        return _HOLDS_SETS
    if holds_qualifiers(cells):
        return "holds qualifiers such as > and <"
    if _is_one_text(cells):
        return "has one value only"
    if not words or words[-1] in _IDENTIFIERS or words[0] in ("id", "unnamed", "index"):
        return "identifies the rows"
    if squeezed in _IDENTIFIERS:
        return "identifies the rows"
    if _DATES & set(words):
        return "is a date"
    n_dates = cells.counts[[bool(DATE.fullmatch(text)) for text in cells.texts]].sum()
    if n_dates > 0.5 * cells.counts.sum():
        return "is a date"
    if _is_binary(cells):
        return ""
    if (
        squeezed in _COMPUTED
        or _COMPUTED & set(words)
        or any(p in spaced for p in _COMPUTED_PHRASES)
    ):
        return "has the name of a computed property"
    parsed = [read_number(text) for text in cells.texts]
    is_number = np.array([not one.problem for one in parsed])
    if cells.counts[is_number].sum() < 0.5 * cells.counts.sum():
        if is_pair(cells) or (is_few(cells) and _MEASURED.search(name.lower())):
            return ""
        has_comma = [one.problem.endswith(COMMA) for one in parsed]
        if cells.counts[has_comma].sum() > 0.5 * cells.counts.sum():
            return COMMA
        return _FEW_TEXTS if is_few(cells) else "is text"
    values = np.array([*(one.value for one in parsed), np.nan])[cells.which]
    known = values[~np.isnan(values)]
    is_counter = len(known) >= 5 and (known == known.round()).all() and (np.diff(known) > 0).all()
    return "numbers the rows" if is_counter else ""


def _is_binary(cells: ColumnValues) -> bool:
    """Whether all cells are 0 and 1, or a pair of opposites, and both occur."""
    if not 2 <= len(cells.texts) <= 6:
        return False
    parsed = [read_number(text) for text in cells.texts]
    if all(not p.problem and not p.censoring and p.value in (0.0, 1.0) for p in parsed):
        return len({one.value for one in parsed}) == 2
    return is_pair(cells)


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(map(repr, names[:_MOST_NAMED]))
    return listed + (f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else "")


def notes_of_cells(table: Table, label_column: LabelColumn) -> list[str]:
    """Count the cells of a target that are censored, approximate, or not labels."""
    name, problems = label_column.name, label_column.problems
    notes = []
    n_censored = int(np.count_nonzero(label_column.censoring))
    if n_censored:
        notes.append(
            f"{name!r}: censored labels, such as >10: {n_censored:,}; they count only where a "
            "prediction is on the wrong side"
        )
    if label_column.n_approximate:
        notes.append(
            f"{name!r}: approximate labels (~): {label_column.n_approximate:,}; they are used as "
            "exact values"
        )
    if problems:
        first = min(problems)
        notes.append(
            f"{name!r}: cells that are not labels and are ignored: {len(problems):,}; "
            f"the first is in {table.place(first)}: {problems[first]}"
        )
    return notes
