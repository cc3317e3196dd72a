"""Cleaning of tables: standardisation, duplicates and outliers, with a record of every row."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from moleblend.chem import standardise
from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.data.duplicates import contradict, same_molecules
from moleblend.data.table import Rejected, Table, numbers, read_with_smiles

Duplicates = Literal["off", "keep", "mean", "drop"]
Action = Literal["unchanged", "changed", "failed", "invalid", "merged", "dropped"]

_STEPS: dict[str, Callable[[str], str]] = {
    "largest_fragment": standardise.largest_fragment,
    "neutralise": standardise.neutralise,
    "tautomer": standardise.canonical_tautomer,
    "explicit_hydrogens": standardise.explicit_hydrogens,
}
"""The standardisation steps of the configuration, in the order in which they are applied."""

_DESCRIPTIONS: dict[Action, str] = {
    "unchanged": "unchanged",
    "changed": "changed",
    "failed": "unchanged, because they could not be standardised",
    "invalid": "not a molecule",
    "merged": "merged into another row of the same molecule",
    "dropped": "dropped, because their labels contradict each other",
}


@dataclass(frozen=True)
class CleaningConfig:
    """The cleaning steps; by default none.

    Attributes:
        largest_fragment: keep the largest fragment of salts and mixtures, organic ones first.
        neutralise: remove charges by adding and removing hydrogens, where possible.
        tautomer: replace each molecule by its canonical tautomer; stereo is kept where possible.
        explicit_hydrogens: write hydrogens as atoms.
        drop_invalid: drop rows that are not a molecule.
        duplicates: how to treat rows with the same molecule after the steps above. `off` does not
            search for them. Otherwise rows whose labels agree are merged into the first one, which
            gets its missing labels from the others. For contradicting labels, `keep` keeps all
            rows and reports them; `mean` merges them and averages each target; `drop` merges them
            and removes the contradicting labels, and drops a molecule without any label left.
        tolerance: largest difference of two labels that agree, in the unit of the target.
        outliers: robust z-score above which a label is flagged; 0 flags none. Outliers are not
            dropped.
    """

    largest_fragment: bool = False
    neutralise: bool = False
    tautomer: bool = False
    explicit_hydrogens: bool = False
    drop_invalid: bool = False
    duplicates: Duplicates = "off"
    tolerance: float = 0.0
    outliers: float = 0.0

    def __post_init__(self) -> None:
        """Check that the values are in range."""
        if not (0 <= self.tolerance < np.inf and 0 <= self.outliers < np.inf):
            raise ValueError(
                f"got tolerance={self.tolerance} and outliers={self.outliers}, expected finite "
                "values of at least 0"
            )


@dataclass(frozen=True)
class Account:
    """Record of how one row was treated.

    Attributes:
        row: row of the input, counted from 1.
        out_row: row of the output, counted from 1; None if the row is not in it.
        action: `unchanged`, `changed` (its SMILES or a label), `failed` (could not be standardised
            and was not changed), `invalid` (not a molecule), `merged` (into another row),
            `dropped`.
        before: its SMILES in the input.
        after: its SMILES in the output; for a row that is not in the output, the SMILES that was
            compared.
        reason: the steps that changed it and all messages; empty if there are none.
    """

    row: int
    out_row: int | None
    action: Action
    before: str
    after: str
    reason: str


@dataclass(frozen=True, eq=False)
class Cleaned:
    """The clean table and the record of its changes.

    Attributes:
        columns: the remaining rows in order; cells without a change are those of the input.
        rows: the row of the input for each of them, counted from 0.
        account: one record for each row of the input, in order.
        n_steps: number of rows that each step changed.
        n_contradicting: number of molecules whose labels contradict each other.
        n_outliers: number of flagged labels, by target.
    """

    columns: pa.Table
    rows: Int64[np.ndarray, " n_out"]
    account: tuple[Account, ...]
    n_steps: dict[str, int]
    n_contradicting: int
    n_outliers: dict[str, int]

    def account_table(self) -> pa.Table:
        """Return the records as a table."""
        names = [field.name for field in fields(Account)]
        rows = [asdict(account) for account in self.account]
        return pa.table({name: pa.array([row[name] for row in rows]) for name in names})

    def summary(self) -> list[str]:
        """Summarise the records in a few lines."""
        counts = Counter(account.action for account in self.account)
        lines = [f"{len(self.account):,} rows read, {len(self.rows):,} rows kept"]
        lines += [f"{counts[a]:,} {text}" for a, text in _DESCRIPTIONS.items() if counts[a]]
        lines += [f"{step}: {count:,} rows changed" for step, count in self.n_steps.items()]
        if self.n_contradicting:
            lines.append(f"molecules with contradicting labels: {self.n_contradicting:,}")
        lines += [f"{name}: {count:,} outliers flagged" for name, count in self.n_outliers.items()]
        return lines


@dataclass(frozen=True)
class _Row:
    """A row between the steps.

    `molecule` is the canonical SMILES for finding duplicates; "" if the row is not a molecule.
    """

    action: Action
    before: str
    after: str
    molecule: str
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def noted(self, note: str, action: Action | None = None) -> "_Row":
        """Return the row with one more message, and optionally another action."""
        return replace(self, notes=(*self.notes, note), action=action or self.action)


def clean(
    table: Table,
    config: CleaningConfig,
    targets: Sequence[str] = (),
    *,
    smiles: str | None = None,
) -> Cleaned:
    """Clean a table.

    Args:
        table: for example from `formats.read_table`. The molecules of an SDF become SMILES in a new
            column `smiles`; their geometry is lost.
        config: the steps.
        targets: label columns, for duplicates and outliers.
        smiles: the SMILES column; found by name by default.

    Raises:
        ValueError: a column is missing or has another type, a molecule with a geometry would
            change, duplicates or outliers are requested without targets, or classes would be
            averaged.
    """
    if (config.duplicates != "off" or config.outliers) and not targets:
        raise ValueError("duplicates and outliers need labels: name at least one target")
    lists = [field.name for field in table.columns.schema if pa.types.is_nested(field.type)]
    if lists and any(getattr(config, step) for step in _STEPS):
        raise ValueError(
            f"{table.source}: column {lists[0]!r} has values for each atom, which would not match "
            "a changed molecule; remove the column first"
        )
    labels = np.full((len(table), len(targets)), np.nan)
    for k, target in enumerate(targets):
        labels[:, k] = numbers(table, target)
    columns, name, items = read_with_smiles(table, smiles)
    rows = [
        _standardise(item, text, config)
        for item, text in zip(items, columns.column(name).to_pylist(), strict=True)
    ]
    new_labels, n_contradicting = labels, 0
    if config.duplicates != "off":
        rows, new_labels, n_contradicting = _merge(rows, labels, config, targets, table)
    removed = ("merged", "dropped", "invalid") if config.drop_invalid else ("merged", "dropped")
    kept = np.array([k for k, row in enumerate(rows) if row.action not in removed], np.int64)
    n_outliers = {}
    if config.outliers:
        for k, target in enumerate(targets):
            scores = robust_z(new_labels[kept, k])
            outliers = np.flatnonzero(np.abs(scores) > config.outliers)
            for row, score in zip(kept[outliers], scores[outliers], strict=True):
                rows[row] = rows[row].noted(
                    f"{target} {new_labels[row, k]:.6g} is an outlier, robust z-score {score:.1f}"
                )
            n_outliers[target] = len(outliers)
    columns = _replace(columns, name, {k: row.after for k, row in enumerate(rows) if row.steps})
    for k, target in enumerate(targets):
        changed = np.flatnonzero(_differ(labels[:, k], new_labels[:, k]))
        columns = _replace(columns, target, {int(row): new_labels[row, k] for row in changed})
    out_rows = {int(row): out_row for out_row, row in enumerate(kept, start=1)}
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
    n_steps = {
        step: sum(step in row.steps for row in rows) for step in _STEPS if getattr(config, step)
    }
    return Cleaned(columns.take(kept), kept, account, n_steps, n_contradicting, n_outliers)


def robust_z(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Compute robust z-scores, from the median and the median absolute deviation.

    Returns:
        NaN for NaN. 0 for classes 0 and 1, and if more than half of the values are equal.

    Reference:
        Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993 (they flag above 3.5).
    """
    known = values[~np.isnan(values)]
    mad = np.median(np.abs(known - np.median(known))) if len(known) else 0.0
    if mad == 0 or np.isin(known, (0, 1)).all():
        return values * 0.0
    return (values - np.median(known)) / (1.4826 * mad)  # the std of a normal distribution


def _standardise(item: Molecule | Rejected, text: str | None, config: CleaningConfig) -> _Row:
    """Apply the steps of the configuration: all of them, or none if one fails."""
    if isinstance(item, Rejected):
        return _Row("invalid", text or "", text or "", "", notes=(item.reason,))
    before, start = text or item.smiles, standardise.canonical(item.smiles)
    steps, smiles = [], start
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
            smiles = after
    if steps:
        return _Row("changed", before, smiles, smiles, tuple(steps))
    return _Row("unchanged", before, before, smiles)


def _merge(
    rows: list[_Row],
    labels: Float64[np.ndarray, "n t"],
    config: CleaningConfig,
    targets: Sequence[str],
    table: Table,
) -> tuple[list[_Row], Float64[np.ndarray, "n t"], int]:
    """Merge rows of the same molecule; also return the new labels and count contradictions."""
    rows, labels = list(rows), labels.copy()
    is_class = [np.isin(column[~np.isnan(column)], (0, 1)).all() for column in labels.T]
    n_contradicting = 0
    for group in same_molecules([row.molecule for row in rows]):
        group_labels = labels[group]
        is_known = ~np.isnan(group_labels)
        lowest = np.where(is_known, group_labels, -np.inf)
        highest = np.where(is_known, group_labels, np.inf)
        is_contradictory = contradict(lowest, highest, config.tolerance)
        contradictions = "; ".join(
            f"labels of {targets[k]} contradict: {_labels_by_row(group, group_labels[:, k])}"
            for k in np.flatnonzero(is_contradictory)
        )
        n_contradicting += bool(contradictions)
        if contradictions and config.duplicates == "keep":
            for row in group:
                rows[row] = rows[row].noted(contradictions)
            continue
        for k in np.flatnonzero(is_contradictory) if config.duplicates == "mean" else ():
            if is_class[k]:
                raise ValueError(
                    f"{table.source}: {contradictions}; classes cannot be averaged, use keep or "
                    "drop for duplicates"
                )
        merged = np.array(
            [
                _merge_labels(group_labels[:, k], bool(is_contradictory[k]), config)
                for k in range(len(targets))
            ]
        )
        first, *others = group
        if contradictions and np.isnan(merged).all():
            for row in group:
                rows[row] = rows[row].noted(contradictions, "dropped")
            continue
        for row in others:
            rows[row] = rows[row].noted(
                "; ".join([f"same molecule as row {first + 1}", *filter(None, [contradictions])]),
                "merged",
            )
        old = labels[first].copy()
        changed = [
            f"{targets[k]} was {'empty' if np.isnan(old[k]) else f'{old[k]:.6g}'}"
            for k in np.flatnonzero(_differ(old, merged))
        ]
        labels[first] = merged
        action = rows[first].action
        rows[first] = rows[first].noted(
            "; ".join(
                [*changed, f"merged with {_row_list(others)}", *filter(None, [contradictions])]
            ),
            "changed" if changed and action == "unchanged" else action,
        )
    return rows, labels, n_contradicting


def _labels_by_row(rows: Sequence[int], labels: Float64[np.ndarray, " m"]) -> str:
    known = [k for k in range(len(rows)) if not np.isnan(labels[k])]
    return ", ".join(f"row {rows[k] + 1}: {labels[k]:.6g}" for k in known)


def _row_list(rows: Sequence[int]) -> str:
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(str(row + 1) for row in rows)}"


def _differ(
    old: Float64[np.ndarray, " m"], new: Float64[np.ndarray, " m"]
) -> Bool[np.ndarray, " m"]:
    """Compare labels; two missing ones are equal."""
    return (old != new) & ~(np.isnan(old) & np.isnan(new))


def _merge_labels(
    labels: Float64[np.ndarray, " m"], is_contradictory: bool, config: CleaningConfig
) -> float:
    """Merge several labels of one molecule."""
    known = labels[~np.isnan(labels)]
    if not len(known) or (is_contradictory and config.duplicates == "drop"):
        return np.nan
    if config.duplicates == "mean" and np.ptp(known) > 0:
        return float(f"{known.mean():.12g}")  # not 1.5499999999999998
    return float(known[0])


def _replace(columns: pa.Table, name: str, cells: Mapping[int, str | float]) -> pa.Table:
    """Replace some cells of a column; NaN gives an empty cell."""
    if not cells:
        return columns
    index = columns.column_names.index(name)
    kind = columns.column(index).type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    values = columns.column(index).to_pylist()
    for row, value in cells.items():
        if isinstance(value, str):
            values[row] = value
        elif np.isnan(value):
            values[row] = None
        else:
            values[row] = np.format_float_positional(value, trim="-") if is_text else float(value)
    return columns.set_column(index, name, pa.array(values, kind if is_text else None))
