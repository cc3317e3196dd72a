"""Cleaning of a table: optional steps, with an account of every row.

The file is longer than others because all steps share the rows and labels that one command reads;
`merging` has the rules for labels of duplicates.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64

from moleblend.chem import standardise
from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.config import check_fields, check_finite
from moleblend.data.duplicates import same_molecules
from moleblend.data.labels.cell_values import TableCells
from moleblend.data.labels.label_column import LabelColumn, read_label_column
from moleblend.data.labels.qualifier_columns import read_qualifiers
from moleblend.data.labels.target_detection import measured_columns
from moleblend.data.merging import Merge, MergedLabel, MergeError, find_conflicts, merge_labels
from moleblend.data.table import Rejected, Table, read_with_smiles
from moleblend.errors import TableError

Duplicates = Literal["off", "keep", "mean", "drop"]
Action = Literal["unchanged", "changed", "failed", "invalid", "merged", "dropped"]

_STEPS: dict[str, Callable[[str], str]] = {
    "largest_fragment": standardise.largest_fragment,
    "normalise": standardise.normalise,
    "neutralise": standardise.neutralise,
    "tautomer": standardise.canonical_tautomer,
    "explicit_hydrogens": standardise.explicit_hydrogens,
}
"""Function on a SMILES of each step, in the order of execution."""

_MEANINGS: dict[Action, str] = {
    "unchanged": "rows unchanged",
    "changed": "rows changed",
    "failed": "rows unchanged, because standardisation failed",
    "invalid": "rows that are not molecules",
    "merged": "rows merged into another row of the same molecule",
    "dropped": "rows dropped, because their labels contradict each other",
}


@dataclass(frozen=True)
class CleaningConfig:
    """Cleaning steps; by default none.

    Attributes:
        largest_fragment: keep the parent of salts and mixtures: known counter-ions go first, then
            the organic fragment with the most heavy atoms is kept. Alkali and alkaline earth metals
            are disconnected.
        normalise: write each functional group in one way (`S=O` and not `[S+][O-]`).
        neutralise: remove charges by adding and removing hydrogens, where possible.
        tautomer: write one canonical tautomer of each molecule; stereo is kept where possible.
        explicit_hydrogens: write hydrogens as atoms.
        drop_invalid: remove rows that are not molecules.
        duplicates: merge rows of the same molecule, after the steps above. `off` does not look for
            duplicates. Otherwise rows whose labels agree are merged into the first, which gets
            missing labels from the others. If labels contradict each other, `keep` keeps all rows,
            `mean` averages exact labels, and `drop` removes these labels, and the molecule if no
            label is left. Censored labels such as >10 are never averaged: an exact label takes
            precedence, and rows whose censored labels contradict the mean are kept.
        tolerance: largest difference between two numeric labels that agree, in the unit of the
            target.
        outliers: robust z-score (3.5 is usual) above which an exact label is flagged; 0 flags none.
            Outliers are never removed.
        qualifier: column of qualifiers (>, <) of the target; auto detects it by name, none ignores
            such columns.
    """

    largest_fragment: bool = False
    normalise: bool = False
    neutralise: bool = False
    tautomer: bool = False
    explicit_hydrogens: bool = False
    drop_invalid: bool = False
    duplicates: Duplicates = "off"
    tolerance: float = 0.0
    outliers: float = 0.0
    qualifier: str = "auto"

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_fields(self)
        if not (0 <= self.tolerance < np.inf and 0 <= self.outliers < np.inf):
            raise TableError(
                "tolerance and outliers must be finite and not negative, "
                f"got tolerance={self.tolerance}, outliers={self.outliers}"
            )
        check_finite(self)


@dataclass(frozen=True)
class Account:
    """What happened to one row.

    Attributes:
        row: row of the input, counted from 1.
        out_row: row of the output, counted from 1; None if the row is not in the output.
        action: `unchanged`, `changed` (the SMILES or a label), `failed` (standardisation failed,
            row unchanged), `invalid` (not a molecule), `merged` (into another row), `dropped`.
        before: SMILES in the input.
        after: SMILES in the output; for a row that is not in the output, the SMILES by which it was
            compared.
        reason: the steps that changed the row, and further notes; may be empty.
    """

    row: int
    out_row: int | None
    action: Action
    before: str
    after: str
    reason: str


@dataclass(frozen=True, eq=False)
class Cleaned:
    """The clean table, with an account of every row.

    Attributes:
        columns: the remaining rows, in order; unchanged cells are those of the input.
        rows: input row of each output row, counted from 0.
        account: one record for each row of the input, in order.
        n_steps: number of rows changed by each step.
        n_contradicting: number of molecules whose labels contradict each other.
        n_outliers: number of flagged labels, by target.
        n_censored_unused: number of censored labels that are not part of a merged label.
        n_not_merged: number of molecules whose rows are kept because of censored labels.
        notes: messages for the user, one sentence each.
    """

    columns: pa.Table
    rows: Int64[np.ndarray, " n_out"]
    account: tuple[Account, ...]
    n_steps: dict[str, int]
    n_contradicting: int
    n_outliers: dict[str, int]
    n_censored_unused: int = 0
    n_not_merged: int = 0
    notes: tuple[str, ...] = ()

    def account_table(self) -> pa.Table:
        """The account as a table."""
        names = [field.name for field in fields(Account)]
        rows = [asdict(account) for account in self.account]
        return pa.table({name: pa.array([row[name] for row in rows]) for name in names})

    def summary(self) -> list[str]:
        """Summarise the account in a few sentences."""
        counts = Counter(account.action for account in self.account)
        lines = [f"rows in the input: {len(self.account):,}, in the output: {len(self.rows):,}"]
        lines += [f"{text}: {counts[a]:,}" for a, text in _MEANINGS.items() if counts[a]]
        lines += [f"rows changed by {step}: {count:,}" for step, count in self.n_steps.items()]
        if self.n_contradicting:
            lines.append(f"molecules with contradicting labels: {self.n_contradicting:,}")
        if self.n_censored_unused:
            lines.append(
                f"censored labels that are not part of a merged label: {self.n_censored_unused:,}"
            )
        if self.n_not_merged:
            lines.append(f"molecules not merged because of censored labels: {self.n_not_merged:,}")
        lines += [
            f"outliers flagged in {name}: {count:,}" for name, count in self.n_outliers.items()
        ]
        return lines


@dataclass(frozen=True)
class _Row:
    """A row during cleaning.

    `molecule` is the identity by which rows are compared; empty if there is none.
    """

    action: Action
    before: str
    after: str
    molecule: str
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def noted(self, note: str, action: Action | None = None) -> "_Row":
        """Add a note."""
        return replace(self, notes=(*self.notes, note), action=action or self.action)


def clean(
    table: Table,
    config: CleaningConfig,
    targets: Sequence[str] = (),
    *,
    smiles: str | None = None,
) -> Cleaned:
    """Clean a table as configured. Labels are read exactly as by `moleblend train`.

    Args:
        table: the rows, see `formats.read_table`. The molecules of an SDF are written as SMILES in
            a new column `smiles`; their geometry is lost.
        config: the steps.
        targets: columns of labels, required for duplicates and outliers.
        smiles: the SMILES column; detected by name by default.

    Raises:
        TableError: a column is missing or holds other values, a molecule with a geometry would
            change, duplicates or outliers are requested without targets, or classes would have to
            be averaged.
    """
    if (config.duplicates != "off" or config.outliers) and not targets:
        raise TableError("duplicates and outliers need labels: name at least one target")
    lists = [field.name for field in table.columns.schema if pa.types.is_nested(field.type)]
    if lists and any(getattr(config, step) for step in _STEPS):
        raise TableError(
            f"{table.source}: column {lists[0]!r} has values for each atom, which would not follow "
            "a molecule that changes; clean a table without this column"
        )
    columns, name, items = read_with_smiles(table, smiles)
    labels = _read_labels(table, targets, name, config.qualifier)
    rows = [
        _standardise(item, text, config)
        for item, text in zip(items, columns.column(name).to_pylist(), strict=True)
    ]
    for column in labels.columns:
        for row, problem in column.problems.items():
            rows[row] = rows[row].noted(f"{column.name}: {problem}")
    merging = _Merging(rows, [], 0, 0)
    if config.duplicates != "off":
        merging = _merge(rows, labels.columns, config.duplicates, config.tolerance, table.source)
    rows = merging.rows
    gone = ("merged", "dropped", "invalid") if config.drop_invalid else ("merged", "dropped")
    left = np.array([k for k, row in enumerate(rows) if row.action not in gone], np.int64)
    n_outliers = {}
    if config.outliers:
        for column in labels.columns:
            values = _exact_values(column, merging.changes)
            scores = robust_z(values[left])
            far = np.flatnonzero(np.abs(scores) > config.outliers)
            for row, score in zip(left[far], scores[far], strict=True):
                rows[row] = rows[row].noted(
                    f"{column.name} {values[row]:.6g} is an outlier, robust z-score {score:.1f}"
                )
            n_outliers[column.name] = len(far)
    columns = _replace(columns, name, {k: row.after for k, row in enumerate(rows) if row.steps})
    columns = _write_labels(columns, labels, merging.changes)
    out_rows = {int(row): place + 1 for place, row in enumerate(left)}
    account = tuple(
        Account(
            row=k + 1,
            out_row=out_rows.get(k),
            action=row.action,
            before=row.before,
            after=row.after,
            reason="; ".join((*row.steps, *row.notes)),
        )
        for k, row in enumerate(rows)
    )
    return Cleaned(
        columns=columns.take(left),
        rows=left,
        account=account,
        n_steps={
            step: sum(step in row.steps for row in rows) for step in _STEPS if getattr(config, step)
        },
        n_contradicting=merging.n_contradicting,
        n_outliers=n_outliers,
        n_censored_unused=sum(len(label.unused) for _, _, label in merging.changes),
        n_not_merged=merging.n_not_merged,
        notes=labels.notes,
    )


@dataclass(frozen=True)
class _Labels:
    """Labels of the targets.

    `cells` are those of the table, `relations` the column of qualifiers of a target.
    """

    columns: tuple[LabelColumn, ...]
    cells: TableCells
    relations: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Merging:
    """Rows after merging.

    `changes` holds the first row of each merged molecule, the column of a target, and its label.
    """

    rows: list[_Row]
    changes: list[tuple[int, LabelColumn, MergedLabel]]
    n_contradicting: int
    n_not_merged: int


def _read_labels(table: Table, targets: Sequence[str], smiles: str, qualifier: str) -> _Labels:
    """Read the labels and their qualifiers as `moleblend train` does; a column may be empty."""
    cells = TableCells(table)
    label_columns = []
    for target in targets:
        values = cells[target]
        if values is not None and not values.texts:
            n_rows = len(table)
            missing = np.full(n_rows, np.nan), np.zeros(n_rows, np.int8)
            label_columns.append(LabelColumn(target, "regression", (), *missing, {}))
        else:
            label_columns.append(read_label_column(cells, target))
    if not targets:
        return _Labels((), cells, {}, ())
    others = {smiles, qualifier}
    columns, relations, notes = read_qualifiers(
        cells,
        label_columns,
        qualifier,
        others,
        lambda: measured_columns(cells, {*targets, *others}),
    )
    return _Labels(columns, cells, relations, tuple(notes))


def robust_z(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Distance of each value from the median, in robust standard deviations.

    Returns:
        NaN for NaN. 0 for all values if these are only 0 and 1, or more than half are equal.

    Reference:
        Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993 (they flag above 3.5).
    """
    known = values[~np.isnan(values)]
    deviation = np.median(np.abs(known - np.median(known))) if len(known) else 0.0
    if deviation == 0 or np.isin(known, (0, 1)).all():
        return values * 0.0
    return (values - np.median(known)) / (1.4826 * deviation)  # standard deviation of a normal one


def _standardise(item: Molecule | Rejected, text: str | None, config: CleaningConfig) -> _Row:
    """Apply the requested steps; all of them, or none if one fails."""
    if isinstance(item, Rejected):
        return _Row("invalid", text or "", text or "", "", notes=(item.reason,))
    before, start = text or item.smiles, standardise.canonical(item.smiles)
    if item.stereo_identity:
        wanted = any(getattr(config, name) for name in _STEPS)
        note = "has stereo groups or axial stereo, which the steps would lose"
        action: Action = "failed" if wanted else "unchanged"
        notes = (note,) if wanted else ()
        return _Row(action, before, before, item.stereo_identity, notes=notes)
    steps, removed, smiles = [], [], start
    for name, step in _STEPS.items():
        if not getattr(config, name):
            continue
        try:
            after = step(smiles)
        except MoleculeError as error:
            reason = str(error).removeprefix(f"{smiles}: ")
            return _Row("failed", before, before, start, notes=(f"{name}: {reason}",))
        if after != smiles:
            steps.append(name)
            if name == "largest_fragment":
                removed += standardise.removed_fragments(smiles)
            smiles = after
    if steps:
        notes = (f"removed {' and '.join(removed)}",) if removed else ()
        return _Row("changed", before, smiles, smiles, tuple(steps), notes)
    return _Row("unchanged", before, before, smiles)


def _merge(
    rows: Sequence[_Row],
    labels: Sequence[LabelColumn],
    how: Merge,
    tolerance: float,
    source: Path,
) -> _Merging:
    """Merge the rows of each molecule, as far as its labels allow."""
    rows = list(rows)
    changes: list[tuple[int, LabelColumn, MergedLabel]] = []
    n_contradicting = n_not_merged = 0

    def note(places: Sequence[int], *texts: str, action: Action | None = None) -> None:
        for place in places:
            rows[place] = rows[place].noted("; ".join(filter(None, texts)), action)

    for group in same_molecules([row.molecule for row in rows]):
        conflicts = find_conflicts(labels, group, tolerance)
        conflicting = [column for column, odd in zip(labels, conflicts, strict=True) if odd]
        conflict = "; ".join(
            f"{column.name} contradicts, {_labels_text(column, group)}" for column in conflicting
        )
        n_contradicting += bool(conflict)
        if conflict and how == "keep":
            note(group, conflict)
            continue
        if how == "mean" and any(column.classes for column in conflicting):
            raise TableError(
                f"{source}: {conflict}; classes have no mean, keep or drop the duplicates"
            )
        try:
            merged = [
                merge_labels(column, group, how, is_conflict=bool(odd))
                for column, odd in zip(labels, conflicts, strict=True)
            ]
        except MergeError as error:
            n_not_merged += 1
            note(group, conflict, f"not merged, {error}")
            continue
        first, *others = group
        if conflict and all(np.isnan(label.value) for label in merged):
            note(group, conflict, action="dropped")
            continue
        note(others, f"same molecule as row {first + 1}", conflict, action="merged")
        changed = [
            (column, label)
            for column, label in zip(labels, merged, strict=True)
            if _differs(column, first, label)
        ]
        note(
            [first],
            *(f"{column.name} was {column.text(first)}" for column, _ in changed),
            *(
                f"{column.name}: censored labels not used, {_labels_text(column, label.unused)}"
                for column, label in zip(labels, merged, strict=True)
                if label.unused
            ),
            f"merged with {_places(others)}",
            conflict,
            action="changed" if changed and rows[first].action == "unchanged" else None,
        )
        changes += [(first, column, label) for column, label in zip(labels, merged, strict=True)]
    return _Merging(rows, changes, n_contradicting, n_not_merged)


def _labels_text(column: LabelColumn, rows: Sequence[int]) -> str:
    """List the labels of some rows, counted from 1."""
    known = [row for row in rows if not np.isnan(column.values[row])]
    return ", ".join(f"row {row + 1}: {column.text(row)}" for row in known)


def _places(rows: Sequence[int]) -> str:
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(str(row + 1) for row in rows)}"


def _differs(column: LabelColumn, row: int, label: MergedLabel) -> bool:
    """Whether a merged label differs from the label of a row."""
    value = column.values[row]
    if np.isnan(value) or np.isnan(label.value):
        return bool(np.isnan(value) != np.isnan(label.value))
    return bool(value != label.value or column.censoring[row] != label.censoring)


def _exact_values(
    column: LabelColumn, changes: Sequence[tuple[int, LabelColumn, MergedLabel]]
) -> Float64[np.ndarray, " n"]:
    """Return the exact numeric labels after merging; NaN for other labels and classes."""
    values = np.where(column.censoring == 0, column.values, np.nan)
    for row, changed, label in changes:
        if changed is column:
            values[row] = label.value if label.censoring == 0 else np.nan
    return np.full(len(values), np.nan) if column.classes else values


def _write_labels(
    columns: pa.Table, labels: _Labels, changes: Sequence[tuple[int, LabelColumn, MergedLabel]]
) -> pa.Table:
    """Write merged labels, and their qualifiers, into the first row of each molecule.

    A label of another row is copied as it is written there.
    """
    for column in labels.columns:
        raw, cells = columns.column(column.name).to_pylist(), {}
        relation = labels.relations.get(column.name)
        raw_qualifiers = columns.column(relation).to_pylist() if relation else []
        qualifiers = {}
        for first, changed, label in changes:
            if changed is not column or not _differs(column, first, label):
                continue
            if label.row is not None:
                cells[first] = raw[label.row]
            else:
                cells[first] = None if np.isnan(label.value) else label.value
            if relation:
                row = label.qualifier_row
                qualifiers[first] = None if row is None else raw_qualifiers[row]
        values = labels.cells[column.name]
        has_commas = values is not None and values.has_commas
        columns = _replace(columns, column.name, cells, has_commas=has_commas)
        if relation:
            columns = _replace(columns, relation, qualifiers)
    return columns


def _replace(
    columns: pa.Table, name: str, cells: Mapping[int, object], *, has_commas: bool = False
) -> pa.Table:
    """Replace some cells of a column; None makes an empty cell.

    A number in a column of texts is written as text, with a decimal comma if `has_commas`.
    """
    if not cells:
        return columns
    place = columns.column_names.index(name)
    kind = columns.column(place).type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    values = columns.column(place).to_pylist()
    for row, value in cells.items():
        values[row] = value
        if is_text and isinstance(value, float):
            text = np.format_float_positional(value, trim="-")
            values[row] = text.replace(".", ",") if has_commas else text
    return columns.set_column(place, name, pa.array(values, kind if is_text else None))
