"""Rows to predict: molecules, their geometries and features, and what is wrong with the others."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from moleblend.chem.conformers import ConformerConfig, Conformers
from moleblend.chem.fingerprints import is_readable
from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.data.table import Rejected
from moleblend.files import cache_folder
from moleblend.model.blending import ShownViews

Errors = Literal["keep", "skip", "raise"]


@dataclass(frozen=True, eq=False)
class Row:
    """One input row.

    Attributes:
        molecule: None where the row cannot be used.
        status: `ok`, `ok_2d_only` (geometry is used, this row has none), `invalid` (no molecule),
            `too_large`, or `no_3d` (only geometry is used, this row has none).
        reason: why the status is not `ok`; empty where it is.
    """

    molecule: Molecule | None
    status: str
    reason: str = ""


def prepare(
    items: Iterable[Molecule | Rejected],
    views: ShownViews,
    max_atoms: int,
    n_conformers: int = 0,
    joined: Sequence[str] = (),
) -> list[Row]:
    """Decide how each row is used.

    Args:
        items: what the rows were read as.
        views: what shall be used of them.
        max_atoms: larger molecules are refused.
        n_conformers: geometries to compute where geometry is used and a row has none; in a process
            of its own, as by `conformers.Conformers`, and kept in the user's cache.
        joined: features that are computed of the SMILES; one that RDKit refuses has none.
    """
    if not n_conformers:
        return [_prepare(item, views, max_atoms, joined, None) for item in items]
    with closing(Conformers(ConformerConfig(n_conformers, cache=cache_folder()))) as conformers:
        add = conformers.add_positions
        return [_prepare(item, views, max_atoms, joined, add) for item in items]


def _prepare(
    item: Molecule | Rejected,
    views: ShownViews,
    max_atoms: int,
    joined: Sequence[str],
    add_positions: Callable[[Molecule], Molecule] | None,
) -> Row:
    if isinstance(item, Rejected):
        return Row(None, "invalid", item.reason)
    if item.n_atoms > max_atoms:
        reason = f"{item.n_atoms} atoms, the model takes at most {max_atoms}"
        return Row(None, "too_large", reason)
    if joined and not is_readable(item.smiles):
        reason = (
            f"RDKit does not read {item.smiles}, of which the model wants {' and '.join(joined)}"
        )
        return Row(None, "invalid", reason)
    if views == "2d" or item.n_conformers:
        return Row(item, "ok")
    reason = "no geometry in the input"
    if add_positions is not None:
        try:
            return Row(add_positions(item), "ok")
        except MoleculeError as error:
            reason = str(error)
    if views == "3d":
        return Row(None, "no_3d", reason)
    return Row(item, "ok_2d_only", reason)
