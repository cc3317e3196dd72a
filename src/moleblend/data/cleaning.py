"""A table made fit to learn from: each step asked for by name, with an account of every row."""

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
"""What each switch of the configuration does to a SMILES, in the order in which it is done."""

_MEANINGS: dict[Action, str] = {
    "unchanged": "as they were",
    "changed": "changed",
    "failed": "as they were, since they could not be standardised",
    "invalid": "no molecule",
    "merged": "merged into another row of the same molecule",
    "dropped": "dropped, since labels contradict",
}


@dataclass(frozen=True)
class CleaningConfig:
    """What is done; by default nothing.

    Attributes:
        largest_fragment: keep the largest fragment (organic before inorganic) of salts, mixtures.
        neutralise: remove charges by adding and removing hydrogens, where that is possible.
        tautomer: write one tautomer of each molecule; stereo is kept where it can be.
        explicit_hydrogens: write hydrogens as atoms.
        drop_invalid: leave rows out that are no molecule.
        duplicates: what becomes of rows with the same molecule, after the steps above. `off`: they
            are not looked for. Otherwise rows whose labels agree become one, the first, with the
            labels that it lacks from the others. Where labels contradict, `keep` leaves all those
            rows and says so; `mean` merges them and gives each target its mean; `drop` merges them
            and empties the labels that contradict, and drops a molecule that has none left.
        tolerance: largest difference of two labels that agree, in the unit of the target.
        outliers: robust z-score above which a label is flagged; 0 flags none. It is never dropped.
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
        """Refuse what means nothing."""
        if not (0 <= self.tolerance < np.inf and 0 <= self.outliers < np.inf):
            raise ValueError(
                "tolerance and outliers must be finite and not negative, "
                f"{self.tolerance} and {self.outliers} came"
            )


@dataclass(frozen=True)
class Account:
    """What became of one row.

    Attributes:
        row: of the input, counted from 1.
        out_row: of the output, counted from 1; None where the row is not in it.
        action: `unchanged`, `changed` (its SMILES or a label), `failed` (could not be standardised,
            left as it was), `invalid` (no molecule), `merged` (into another row), `dropped`.
        before: its SMILES as it was.
        after: its SMILES as it is now; of a row that is not in the output, as it was compared.
        reason: the steps that changed it, and all there is to say; "" if there is nothing.
    """

    row: int
    out_row: int | None
    action: Action
    before: str
    after: str
    reason: str


@dataclass(frozen=True, eq=False)
class Cleaned:
    """The clean table and how it came about.

    Attributes:
        columns: the rows that are left, in order; cells that nothing changed are as they were.
        rows: the row of the input that each comes from, counted from 0.
        account: one for each row of the input, in order.
        n_steps: rows that each step changed.
        n_contradicting: molecules whose labels contradict each other.
        n_outliers: labels that were flagged, by target.
    """

    columns: pa.Table
    rows: Int64[np.ndarray, " n_out"]
    account: tuple[Account, ...]
    n_steps: dict[str, int]
    n_contradicting: int
    n_outliers: dict[str, int]

    def account_table(self) -> pa.Table:
        """The account as a table."""
        names = [field.name for field in fields(Account)]
        rows = [asdict(account) for account in self.account]
        return pa.table({name: pa.array([row[name] for row in rows]) for name in names})

    def summary(self) -> list[str]:
        """The account in a few sentences."""
        counts = Counter(account.action for account in self.account)
        lines = [f"{len(self.account):,} rows came, {len(self.rows):,} are left"]
        lines += [f"{counts[a]:,} {told}" for a, told in _MEANINGS.items() if counts[a]]
        lines += [f"{step}: {count:,} rows changed" for step, count in self.n_steps.items()]
        if self.n_contradicting:
            lines.append(f"molecules with labels that contradict: {self.n_contradicting:,}")
        lines += [f"{name}: {count:,} outliers flagged" for name, count in self.n_outliers.items()]
        return lines


@dataclass(frozen=True)
class _Row:
    """A row on its way, counted from 0.

    `molecule` is what it is compared by, canonical SMILES; "" where there is none.
    """

    action: Action
    before: str
    after: str
    molecule: str
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def noted(self, note: str, action: Action | None = None) -> "_Row":
        """Say one thing more."""
        return replace(self, notes=(*self.notes, note), action=action or self.action)


def clean(
    table: Table,
    config: CleaningConfig,
    targets: Sequence[str] = (),
    *,
    smiles: str | None = None,
) -> Cleaned:
    """Do what the configuration asks for.

    Args:
        table: what `tables.read_table` gives. The molecules of an SDF are written as SMILES, in a
            new column `smiles`; their geometry is lost.
        config: the steps.
        targets: columns of labels; duplicates and outliers are about them.
        smiles: the SMILES column; left out, it is found by name.

    Raises:
        ValueError: a column is missing or holds something else, a molecule with a geometry is to be
            changed, duplicates or outliers are asked for without targets, or classes would have to
            be averaged.
    """
    if (config.duplicates != "off" or config.outliers) and not targets:
        raise ValueError("duplicates and outliers are about labels: name at least one target")
    lists = [field.name for field in table.columns.schema if pa.types.is_nested(field.type)]
    if lists and any(getattr(config, step) for step in _STEPS):
        raise ValueError(
            f"{table.source}: what column {lists[0]!r} lists for each atom would not follow a "
            "molecule that changes; clean a table without it"
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
    gone = ("merged", "dropped", "invalid") if config.drop_invalid else ("merged", "dropped")
    left = np.array([k for k, row in enumerate(rows) if row.action not in gone], np.int64)
    n_outliers = {}
    if config.outliers:
        for k, target in enumerate(targets):
            scores = robust_z(new_labels[left, k])
            far = np.flatnonzero(np.abs(scores) > config.outliers)
            for row, score in zip(left[far], scores[far], strict=True):
                rows[row] = rows[row].noted(
                    f"{target} {new_labels[row, k]:.6g} is an outlier, robust z-score {score:.1f}"
                )
            n_outliers[target] = len(far)
    columns = _replace(columns, name, {k: row.after for k, row in enumerate(rows) if row.steps})
    for k, target in enumerate(targets):
        changed = np.flatnonzero(_differ(labels[:, k], new_labels[:, k]))
        columns = _replace(columns, target, {int(row): new_labels[row, k] for row in changed})
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
    n_steps = {
        step: sum(step in row.steps for row in rows) for step in _STEPS if getattr(config, step)
    }
    return Cleaned(columns.take(left), left, account, n_steps, n_contradicting, n_outliers)


def robust_z(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Distance of each value from the median, in standard deviations as the median sees them.

    Returns:
        NaN for NaN. 0 where there is no measure: classes 0 and 1, more than half of them equal.

    Reference:
        Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993 (they flag above 3.5).
    """
    known = values[~np.isnan(values)]
    spread = np.median(np.abs(known - np.median(known))) if len(known) else 0.0
    if spread == 0 or np.isin(known, (0, 1)).all():
        return values * 0.0
    return (values - np.median(known)) / (1.4826 * spread)  # 1.4826: of a normal distribution


def _standardise(item: Molecule | Rejected, text: str | None, config: CleaningConfig) -> _Row:
    """Take the steps that are asked for; all of them, or none if one fails."""
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
    """Merge rows of the same molecule; also give the new labels, and count contradictions."""
    rows, labels = list(rows), labels.copy()
    is_class = [np.isin(column[~np.isnan(column)], (0, 1)).all() for column in labels.T]
    n_contradicting = 0
    for group in same_molecules([row.molecule for row in rows]):
        found = labels[group]
        is_known = ~np.isnan(found)
        lowest, highest = np.where(is_known, found, -np.inf), np.where(is_known, found, np.inf)
        is_odd = contradict(lowest, highest, config.tolerance)
        told = "; ".join(
            f"{targets[k]} contradicts, {_listed(group, found[:, k])}"
            for k in np.flatnonzero(is_odd)
        )
        n_contradicting += bool(told)
        if told and config.duplicates == "keep":
            for row in group:
                rows[row] = rows[row].noted(told)
            continue
        for k in np.flatnonzero(is_odd) if config.duplicates == "mean" else ():
            if is_class[k]:
                raise ValueError(
                    f"{table.source}: {told}; classes have no mean, keep or drop the duplicates"
                )
        merged = np.array([_one(found[:, k], bool(is_odd[k]), config) for k in range(len(targets))])
        first, *others = group
        if told and np.isnan(merged).all():
            for row in group:
                rows[row] = rows[row].noted(told, "dropped")
            continue
        for row in others:
            rows[row] = rows[row].noted(
                f"same molecule as row {first + 1}" + (f"; {told}" if told else ""), "merged"
            )
        old = labels[first].copy()
        changed = [
            f"{targets[k]} was {'empty' if np.isnan(old[k]) else f'{old[k]:.6g}'}"
            for k in np.flatnonzero(_differ(old, merged))
        ]
        labels[first] = merged
        was = rows[first].action
        rows[first] = rows[first].noted(
            "; ".join([*changed, f"merged with {_places(others)}", *([told] if told else [])]),
            "changed" if changed and was == "unchanged" else was,
        )
    return rows, labels, n_contradicting


def _listed(rows: Sequence[int], values: Float64[np.ndarray, " m"]) -> str:
    known = [k for k in range(len(rows)) if not np.isnan(values[k])]
    return ", ".join(f"row {rows[k] + 1}: {values[k]:.6g}" for k in known)


def _places(rows: Sequence[int]) -> str:
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(str(row + 1) for row in rows)}"


def _differ(
    old: Float64[np.ndarray, " m"], new: Float64[np.ndarray, " m"]
) -> Bool[np.ndarray, " m"]:
    """Where two labels are not the same; two that are missing are."""
    return (old != new) & ~(np.isnan(old) & np.isnan(new))


def _one(found: Float64[np.ndarray, " m"], is_odd: bool, config: CleaningConfig) -> float:
    """Make one label of several."""
    known = found[~np.isnan(found)]
    if not len(known) or (is_odd and config.duplicates == "drop"):
        return np.nan
    if config.duplicates == "mean" and np.ptp(known) > 0:
        return float(f"{known.mean():.12g}")  # not 1.5499999999999998
    return float(known[0])


def _replace(columns: pa.Table, name: str, cells: Mapping[int, str | float]) -> pa.Table:
    """Replace some cells of a column; NaN makes an empty one."""
    if not cells:
        return columns
    place = columns.column_names.index(name)
    kind = columns.column(place).type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    values = columns.column(place).to_pylist()
    for row, value in cells.items():
        if isinstance(value, str):
            values[row] = value
        elif np.isnan(value):
            values[row] = None
        else:
            values[row] = np.format_float_positional(value, trim="-") if is_text else float(value)
    return columns.set_column(place, name, pa.array(values, kind if is_text else None))
