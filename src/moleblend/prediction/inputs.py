"""Input rows: molecules, their geometries and features, and why the other rows cannot be used."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from moleblend.chem.conformers import ConformerConfig, Conformers
from moleblend.chem.descriptors import features_and_fingerprint
from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.data.table import Rejected
from moleblend.files import cache_folder
from moleblend.model.blending import ShownViews

Errors = Literal["keep", "skip", "raise"]


@dataclass(frozen=True, eq=False)
class Features:
    """What RDKit computes of one molecule, from one parse of its SMILES.

    Of 2,048 ECFP4 counts about 50 are not 0, so only those are kept.

    Attributes:
        places: which of the molecule features are not 0.
        values: these features.
        fingerprint: the bits of ECFP4, eight in a byte.
    """

    places: Int64[np.ndarray, " k"]
    values: Float32[np.ndarray, " k"]
    fingerprint: UInt8[np.ndarray, " 256"]

    @classmethod
    def of(cls, molecule: Molecule, kinds: Sequence[str]) -> "Features":
        """Compute the features of these kinds (`descriptors.FEATURES`), and the fingerprint.

        Raises:
            MoleculeError: RDKit refuses the SMILES.
        """
        features, fingerprint = features_and_fingerprint(molecule, kinds)
        places = np.flatnonzero(features)
        return cls(places, features[places], fingerprint)


@dataclass(frozen=True, eq=False)
class Row:
    """One input row.

    Attributes:
        molecule: None where the row cannot be used.
        status: `ok`, `ok_2d_only` (the model uses the geometry, this row has none), `invalid` (not
            a molecule), `too_large`, `no_3d` (the model uses nothing but the geometry, this row has
            none), or `not_finite` (the model gives no finite number).
        reason: why the status is not `ok`; empty where it is.
        features: of the molecule; None where they are not needed, or where RDKit refuses the SMILES
            and the model can do without them.
    """

    molecule: Molecule | None
    status: str
    reason: str = ""
    features: Features | None = None


@dataclass(frozen=True)
class InputRules:
    """What a model accepts and needs of each row.

    Attributes:
        views: what is used of a molecule.
        max_atoms: larger molecules are refused.
        required: kinds of features that the model reads; a molecule without them is refused.
        computed: kinds of features to compute: `required`, or none where they are not read.
        has_fingerprint: compute the fingerprint of each molecule, for the applicability domain.
    """

    views: ShownViews
    max_atoms: int
    required: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()
    has_fingerprint: bool = False


def prepare(
    items: Iterable[Molecule | Rejected], rules: InputRules, n_conformers: int = 0
) -> list[Row]:
    """Decide how each row is used.

    Args:
        items: molecules and rejected rows, in the order of the input. If they are read while this
            function iterates, no SMILES is parsed again for its features.
        rules: what the model accepts and needs.
        n_conformers: geometries to compute where the geometry is used and a row has none. They are
            computed by `conformers.Conformers` in a separate process, and cached.
    """
    if not n_conformers:
        return [_prepare(item, rules, None) for item in items]
    with closing(Conformers(ConformerConfig(n_conformers, cache=cache_folder()))) as conformers:
        return [_prepare(item, rules, conformers.add_positions) for item in items]


def _prepare(
    item: Molecule | Rejected,
    rules: InputRules,
    add_positions: Callable[[Molecule], Molecule] | None,
) -> Row:
    if isinstance(item, Rejected):
        return Row(None, item.status, item.reason)
    if item.n_atoms > rules.max_atoms:
        reason = f"{item.n_atoms} atoms, the model takes at most {rules.max_atoms}"
        return Row(None, "too_large", reason)
    features = None
    if rules.required or rules.has_fingerprint:
        try:
            features = Features.of(item, rules.computed)
        except MoleculeError:
            if rules.required:
                needed = " and ".join(rules.required)
                reason = f"RDKit cannot read {item.smiles}, and the model needs its {needed}"
                return Row(None, "invalid", reason)
    if rules.views == "2d" or item.n_conformers:
        return Row(item, "ok", features=features)
    reason = item.geometry_note or "no geometry in the input"
    if add_positions is not None:
        try:
            return Row(add_positions(item), "ok", features=features)
        except MoleculeError as error:
            reason = str(error)
    if rules.views == "3d":
        return Row(None, "no_3d", reason)
    return Row(item, "ok_2d_only", reason, features)


def exclude_not_finite(rows: Sequence[Row], results: Float32[np.ndarray, "n w"]) -> list[Row]:
    """Give usable rows for which the model has computed NaN or infinity a status of their own.

    Args:
        rows: n rows.
        results: what the model computed of each; NaN where a row cannot be used.
    """
    not_finite = np.flatnonzero((~np.isfinite(results)).any(1))
    return [
        row
        if row.molecule is None or k not in not_finite
        else Row(None, "not_finite", "the model computes NaN or infinity for this molecule")
        for k, row in enumerate(rows)
    ]


def stack_features(rows: Sequence[Row], n_features: int) -> Float32[np.ndarray, "n f"]:
    """Give the first features of usable rows as one array; 0 for rows without."""
    stacked = np.zeros((len(rows), n_features), np.float32)
    for k, row in enumerate(rows):
        if row.features is not None:
            end = np.searchsorted(row.features.places, n_features)
            stacked[k, row.features.places[:end]] = row.features.values[:end]
    return stacked


def stack_fingerprints(rows: Sequence[Row]) -> UInt8[np.ndarray, "n 256"]:
    """Give the fingerprints of all rows as one array; 0 for rows without."""
    stacked = np.zeros((len(rows), 256), np.uint8)
    for k, row in enumerate(rows):
        if row.features is not None:
            stacked[k] = row.features.fingerprint
    return stacked
