"""A table of measurements: which columns are targets, of what kind and unit, and their labels."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int8

from moleblend.bounds import are_signs, read_signs
from moleblend.headers import unit_of, words_of
from moleblend.labels import (
    COMMA,
    DATE,
    Cells,
    Measurement,
    Task,
    is_few,
    is_pair,
    read_cells,
    read_measurement,
    read_number,
)
from moleblend.rows import Table

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
_FEW_TEXTS = "is text, with few different ones"
_MOST_NAMED = 12


@dataclass(frozen=True, eq=False)
class Assay:
    """The targets of a table.

    Attributes:
        measurements: the labels of each target.
        units: of each target; empty where unknown.
        left_out: the other columns, and why each is no target; empty where targets were named.
        notes: what the user should be told, one sentence each.
        relation: the column from which signs of bounds are read; empty for none.
        units_from: of each unit, `flag`, `header`, or the name of a column; empty where unknown.
    """

    measurements: tuple[Measurement, ...]
    units: tuple[str, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]
    relation: str = ""
    units_from: tuple[str, ...] = ()

    @property
    def values(self) -> Float64[np.ndarray, "n t"]:
        """Labels; NaN where missing."""
        return np.stack([measurement.values for measurement in self.measurements], 1)

    @property
    def bounds(self) -> Int8[np.ndarray, "n t"]:
        """1 and -1 where a label is only a bound."""
        return np.stack([measurement.bounds for measurement in self.measurements], 1)

    def problems(self, row: int) -> str:
        """Say which cells of a row (from 0) are no labels."""
        return "; ".join(
            f"{measurement.name}: {measurement.problems[row]}"
            for measurement in self.measurements
            if row in measurement.problems
        )


def read_assay(
    table: Table,
    targets: Sequence[str] = (),
    *,
    tasks: Sequence[Task] = ("auto",),
    units: Sequence[str] = (),
    log_scale: Sequence[str] = (),
    relation: str = "auto",
    not_targets: Sequence[str] = (),
) -> Assay:
    """Read the labels of a table.

    Args:
        table: the rows.
        targets: the columns; left out, they are found.
        tasks: the kind of each target, or one for all.
        units: of each target; left out, they are taken from the headers.
        log_scale: targets of which the logarithm will be learnt.
        relation: the column of signs of bounds, see `bounds.read_signs`.
        not_targets: columns that are something else: the SMILES, the split.

    Raises:
        ValueError: no target, or none that is clear, is found; a column is missing; or more than
            half of its cells are no labels.
    """
    left_out: dict[str, str] = {}
    notes: list[str] = []
    if not targets:
        targets, left_out, notes = find_targets(table, [*not_targets, relation])
    for told, given in (("units", units), ("tasks", tasks if len(tasks) > 1 else ())):
        if given and len(given) != len(targets):
            raise ValueError(f"{len(targets)} targets, but {len(given)} {told}: one for each")
    unknown = [name for name in log_scale if name not in targets]
    if unknown:
        raise ValueError(f"--log-scale names {unknown[0]!r}, which is no target of this run")
    each = tasks if len(tasks) > 1 else [*tasks] * len(targets)
    measurements = tuple(
        read_measurement(table, name, task, log10=name in log_scale)
        for name, task in zip(targets, each, strict=True)
    )
    for measurement in measurements:
        notes += measurement.notes
    measurements, signs, told = read_signs(table, measurements, relation, not_targets)
    notes += told
    found, units_from, told = _units(table, measurements, units, not_targets)
    return Assay(measurements, found, left_out, (*notes, *told), signs, units_from)


def _units(
    table: Table,
    measurements: Sequence[Measurement],
    given: Sequence[str],
    not_targets: Sequence[str],
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Give the unit of each target, where it is from, and what is to be told of it.

    Beside one regression target there may be a column of units, as in ChEMBL's tables.
    """
    if given:
        return tuple(given), tuple("flag" if unit else "" for unit in given), []
    found = [unit_of(m.name) if m.kind == "regression" else "" for m in measurements]
    sources = ["header" if unit else "" for unit in found]
    if len(measurements) > 1 or measurements[0].kind != "regression":
        return tuple(found), tuple(sources), []
    (measured,), notes = measurements, []
    for name in dict.fromkeys(table.names):
        words = words_of(name)
        is_beside = words[-1:] in (["unit"], ["units"]) and set(words[:-1]) <= set(
            words_of(measured.name)
        )
        if not is_beside or name in not_targets or table.names.count(name) > 1:
            continue
        cells = read_cells(table, name)
        if cells is None or not cells.texts:
            continue
        known = ~np.isnan(measured.values) & (cells.which >= 0)
        counts = np.bincount(cells.which[known], minlength=len(cells.texts))
        used = [cells.texts[place] for place in np.argsort(-counts, kind="stable") if counts[place]]
        if len(used) == 1 and not found[0]:
            found, sources = used, [f"column {name!r}"]
        elif len(used) > 1:
            some = ", ".join(f"{text} ({counts[cells.texts.index(text)]:,})" for text in used[:5])
            notes.append(
                f"column {name!r} has {len(used)} units for {measured.name!r}, {some}: nothing is "
                "converted, so all are learnt as one; keep the rows of one unit"
            )
    return tuple(found), tuple(sources), notes


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
    notes = []
    for name in dict.fromkeys(table.names):
        if name in not_targets:
            continue
        cells = read_cells(table, name) if table.names.count(name) == 1 else None
        if cells is not None and {text.lower() for text in cells.texts} <= _PARTS and cells.texts:
            left_out[name] = "says train, valid or test"
            notes.append(f"column {name!r} says train, valid or test: --split {name} would use it")
            continue
        reason = "holds lists, or stands twice" if cells is None else why_no_target(name, cells)
        if reason:
            left_out[name] = reason
        elif cells is not None:
            candidates[name] = _is_binary(cells)
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


def why_no_target(name: str, cells: Cells) -> str:
    """Say why a column is no target; nothing where it may be one."""
    words = words_of(name)
    squeezed, spaced = re.sub(r"[\W_]", "", name.lower()), " ".join([*words, ""])
    if not cells.texts:
        return "is empty"
    if are_signs(cells):
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


def _is_binary(cells: Cells) -> bool:
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


def notes_of_cells(table: Table, measurement: Measurement) -> list[str]:
    """Say how many cells of a target are bounds, approximate, or no labels."""
    told = []
    n_bounds, problems = int(np.count_nonzero(measurement.bounds)), measurement.problems
    if n_bounds:
        told.append(
            f"{measurement.name!r}: labels that are bounds, such as >10: {n_bounds:,}; they count "
            "only where a prediction is on the wrong side"
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
