"""From files and strings to `Molecule`: the only file that knows RDKit.

A `cip-1` record is a function of the canonical SMILES alone, however the molecule came: whatever was read
is first written as canonical SMILES, and that text is read again. Geometry and source indices follow the
atoms along.
"""

import gzip
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8, UInt32
from rdkit import Chem, rdBase
from rdkit.Chem import rdCIPLabeler

from .molecule import FeatureVersion, Molecule, MoleculeError

_CIP_ITERATIONS = 100_000
"""Comparisons after which CIP labels stay undecided, about 0.1 s; most molecules need fewer than 10,000."""

_ATOM_LABELS = {"R": 1, "S": 2, "r": 3, "s": 4}
_BOND_LABELS = {"Z": 1, "E": 2, "z": 3, "e": 4}
_CHIRAL_TAGS = {
    Chem.ChiralType.CHI_UNSPECIFIED: 0,
    Chem.ChiralType.CHI_TETRAHEDRAL_CW: 1,
    Chem.ChiralType.CHI_TETRAHEDRAL_CCW: 2,
    Chem.ChiralType.CHI_OTHER: 3,
}
_HYBRIDISATIONS = {
    Chem.HybridizationType.SP: 0,
    Chem.HybridizationType.SP2: 1,
    Chem.HybridizationType.SP3: 2,
    Chem.HybridizationType.SP3D: 3,
    Chem.HybridizationType.SP3D2: 4,
}
_BOND_TYPES = {
    Chem.BondType.SINGLE: 0,
    Chem.BondType.DOUBLE: 1,
    Chem.BondType.TRIPLE: 2,
    Chem.BondType.AROMATIC: 3,
}
_BOND_STEREO = {
    Chem.BondStereo.STEREONONE: 0,
    Chem.BondStereo.STEREOZ: 1,
    Chem.BondStereo.STEREOE: 2,
    Chem.BondStereo.STEREOCIS: 3,
    Chem.BondStereo.STEREOTRANS: 4,
}
_OTHER_ELEMENT, _OTHER_TAG, _OTHER_HYBRIDISATION, _OTHER_BOND, _OTHER_STEREO = 118, 4, 5, 4, 5

_WRITTEN_HYDROGEN = re.compile(r"\[\d*H")
"""Finds a bracket that may be a hydrogen atom (or Hg, Ho, ..., which costs time only)."""

_KEEP_HYDROGENS = Chem.SmilesParserParams()
_KEEP_HYDROGENS.removeHs = False

_BARE = Chem.RemoveHsParameters()
_BARE.removeDefiningBondStereo = True


class _Reasons(logging.Handler):
    """Keeps RDKit's last complaint of each thread, in place of printing it."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Remember one message."""
        self._thread.last = record.getMessage()

    def take(self) -> str:
        """Return the last message in one line and forget it."""
        text = getattr(self._thread, "last", "")
        self._thread.last = ""
        return text


rdBase.LogToPythonLogger()
_reasons = _Reasons()
logging.getLogger("rdkit").addHandler(_reasons)
logging.getLogger("rdkit").propagate = False


def read_smiles(smiles: str, *, id: str = "", features: FeatureVersion = "cip-1") -> Molecule:
    """Read a SMILES."""
    text = smiles.strip()
    name = id or text
    mol, source = _parse_smiles(text, name)
    return _record(mol, source, name, features, written=text)


def read_mol_block(block: str, *, id: str = "", features: FeatureVersion = "cip-1") -> Molecule:
    """Read a mol block (V2000 or V3000)."""
    name = id or block.split("\n", 1)[0].strip() or "mol block"
    with_hydrogens = Chem.MolFromMolBlock(block, removeHs=False)
    if with_hydrogens is None:
        raise MoleculeError(f"{name}: {_reasons.take()}")
    mol, source = _remove_hydrogens(with_hydrogens)
    return _record(mol, source, name, features)


def _parse_smiles(text: str, name: str) -> tuple[Chem.Mol, list[int]]:
    if not text:
        raise MoleculeError(f"{name or 'molecule'}: the SMILES is empty")
    if not _WRITTEN_HYDROGEN.search(text):
        mol = Chem.MolFromSmiles(text)
        if mol is None:
            raise MoleculeError(f"{name}: {_reasons.take()}")
        return mol, list(range(mol.GetNumAtoms()))
    with_hydrogens = Chem.MolFromSmiles(text, _KEEP_HYDROGENS)
    if with_hydrogens is None:
        raise MoleculeError(f"{name}: {_reasons.take()}")
    return _remove_hydrogens(with_hydrogens)


def _remove_hydrogens(
    mol: Chem.Mol, parameters: Chem.RemoveHsParameters | None = None
) -> tuple[Chem.Mol, list[int]]:
    for atom in mol.GetAtoms():
        atom.SetIntProp("_source", atom.GetIdx())
    bare = Chem.RemoveHs(mol, parameters) if parameters else Chem.RemoveHs(mol)
    return bare, [atom.GetIntProp("_source") for atom in bare.GetAtoms()]


def _record(
    mol: Chem.Mol, source: list[int], name: str, features: FeatureVersion, written: str = ""
) -> Molecule:
    if mol.GetNumAtoms() == 0:
        raise MoleculeError(f"{name}: a molecule needs at least one atom, this one has none")
    positions = np.zeros((0, mol.GetNumAtoms(), 3), np.float32)
    if mol.GetNumConformers() and mol.GetConformer().Is3D():
        positions = mol.GetConformer().GetPositions().astype(np.float32)[None]
    smiles = written
    labels: dict[int, int] = {}
    if features == "cip-1":
        smiles = Chem.MolToSmiles(mol)
        order = [int(i) for i in mol.GetProp("_smilesAtomOutputOrder").strip("[,]").split(",")]
        mol, kept = _parse_smiles(smiles, name)
        if "@" in smiles or "/" in smiles or "\\" in smiles:
            rdCIPLabeler.AssignCIPLabels(mol, maxRecursiveIterations=_CIP_ITERATIONS)
        if "[H]" in smiles:
            mol, bare = _remove_hydrogens(mol, _BARE)
            kept = [kept[i] for i in bare]
        order = [order[i] for i in kept]
        source = [source[i] for i in order]
        positions = positions[:, order]
    elif not smiles:
        smiles = Chem.MolToSmiles(mol, canonical=False)
    bonds, bond_features = _bond_rows(mol, features)
    return Molecule(
        atoms=_atom_rows(mol, features),
        bonds=bonds,
        bond_features=bond_features,
        positions=positions,
        id=name,
        smiles=smiles,
        source_atoms=np.array(source, np.int32),
        features=features,
    )


def _atom_rows(mol: Chem.Mol, features: FeatureVersion) -> UInt8[np.ndarray, "n 9"]:
    cip = features == "cip-1"
    rows = []
    for atom in mol.GetAtoms():
        number = atom.GetAtomicNum()
        charge = atom.GetFormalCharge() + 5
        if cip:
            chirality = _ATOM_LABELS.get(atom.GetProp("_CIPCode"), 0) if atom.HasProp("_CIPCode") else 0
        else:
            chirality = _CHIRAL_TAGS.get(atom.GetChiralTag(), _OTHER_TAG)
        rows.append(
            (
                number - 1 if number else _OTHER_ELEMENT,
                chirality,
                min(atom.GetTotalDegree(), 11),
                charge if 0 <= charge <= 10 else 11,
                min(atom.GetTotalNumHs(), 9),
                min(atom.GetNumRadicalElectrons(), 5),
                _HYBRIDISATIONS.get(atom.GetHybridization(), _OTHER_HYBRIDISATION),
                atom.GetIsAromatic(),
                atom.IsInRing(),
            )
        )
    return np.array(rows, np.uint8)


def _bond_rows(mol: Chem.Mol, features: FeatureVersion):
    cip = features == "cip-1"
    rows = []
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if cip:
            stereo = _BOND_LABELS.get(bond.GetProp("_CIPCode"), 0) if bond.HasProp("_CIPCode") else 0
        else:
            stereo = _BOND_STEREO.get(bond.GetStereo(), _OTHER_STEREO)
        rows.append(
            (
                min(i, j),
                max(i, j),
                _BOND_TYPES.get(bond.GetBondType(), _OTHER_BOND),
                stereo,
                bond.GetIsConjugated(),
            )
        )
    table = np.array(sorted(rows), np.int32).reshape(-1, 5)
    return table[:, :2].copy(), table[:, 2:].astype(np.uint8)
