"""From SMILES, mol blocks and XYZ to `Molecule`, by RDKit.

A `cip-1` record is a function of its canonical SMILES alone: whatever was read is written as
canonical SMILES, and that text is read again. So the record cannot depend on how a molecule was
drawn, ordered or kekulised; geometry and source indices merely follow their atoms. An `ogb-1`
record is what the published code sees: RDKit's atoms in RDKit's order.

Importing this module sends RDKit's messages to Python's logger `rdkit`, and from there, instead of
onto the terminal, into the sentence of the `MoleculeError`.
"""

import logging
import re
import threading

import numpy as np
from jaxtyping import Float, Float32
from rdkit import Chem, rdBase

from moleblend.chem.featurizer import atom_rows, bond_rows, label_stereo, list_atoms
from moleblend.chem.molecule import FARTHEST, FeatureVersion, Molecule, MoleculeError
from moleblend.chem.parse_errors import RdkitErrorCollector, odd_character, shown

_WRITTEN_HYDROGEN = re.compile(r"\[\d*H")
"""Finds a bracket that may be a hydrogen atom (or Hg, Ho, ..., which costs time only)."""

_STEREO_MARK = re.compile(r"[@/\\]")

_LONGEST_SMILES = 20_000
"""Characters; no molecule that a model takes needs as many, and no clock stops RDKit's parser."""

_KEEP_HYDROGENS = Chem.SmilesParserParams()
_KEEP_HYDROGENS.removeHs = False

_DEFAULT = Chem.RemoveHsParameters()
BARE = Chem.RemoveHsParameters()
BARE.removeDefiningBondStereo = True


RDKIT_VERSION = rdBase.rdkitVersion


_rdkit_errors = RdkitErrorCollector()
rdBase.LogToPythonLogger()
logging.getLogger("rdkit").handlers = [_rdkit_errors]
logging.getLogger("rdkit").propagate = False


class _LastRead(threading.local):
    """The record that this thread read last, and what RDKit reads from its SMILES."""

    def __init__(self) -> None:
        self.record: Molecule | None = None
        self.mol: Chem.Mol | None = None


_last_read = _LastRead()


def read_smiles(smiles: str, *, id: str = "", features: FeatureVersion = "cip-1") -> Molecule:
    """Read a SMILES.

    Args:
        smiles: blanks around it do not count.
        id: the molecule's name; the SMILES itself if empty.
        features: version of the features.

    Returns:
        A molecule without positions.

    Raises:
        MoleculeError: no SMILES, or one that RDKit refuses, with its reason.

    Example:
        >>> read_smiles("OCC").smiles, read_smiles("OCC").source_atoms.tolist()
        ('CCO', [2, 1, 0])
    """
    text = smiles.strip()
    name = id or (text if len(text) <= _LONGEST_SMILES else f"{text[:40]}...") or "molecule"
    mol, source = parse_with_sources(text, name)
    return build_record(mol, source, name, features, written=text)


def read_mol_block(block: str, *, id: str = "", features: FeatureVersion = "cip-1") -> Molecule:
    """Read a mol block, V2000 or V3000, as RDKit's SDMolSupplier does by default.

    Args:
        block: the text up to `M  END`; what follows is not read.
        id: the molecule's name; the title line of the block, or else its SMILES, if empty.
        features: version of the features.

    Returns:
        A molecule with one geometry (Å) if the block is 3D, with none if it is a drawing or has no
        coordinates. In a 3D block stereo comes from the geometry.

    Raises:
        MoleculeError: RDKit refuses the block; the message has its reason.
    """
    name = id or block.split("\n", 1)[0].strip()
    _rdkit_errors.forget()
    with_hydrogens = Chem.MolFromMolBlock(block, removeHs=False)
    if with_hydrogens is None:
        raise MoleculeError(
            f"{name or 'mol block'}: not a valid mol block: {_rdkit_errors.reason()}"
        )
    if with_hydrogens.GetNumAtoms() == 0:
        raise MoleculeError(f"{name or 'mol block'}: the mol block has no atoms")
    mol, source = remove_hydrogens(with_hydrogens, name or "mol block")
    return build_record(mol, source, name, features)


def parse(smiles: str) -> Chem.Mol:
    """Read a SMILES into RDKit's own record, for the other modules that know RDKit.

    Raises:
        MoleculeError: no SMILES, or one that RDKit refuses, with its reason.
    """
    mol, _ = parse_with_sources(smiles.strip(), smiles)
    return mol


def parse_record(molecule: Molecule) -> Chem.Mol:
    """Read the SMILES of a record into RDKit's own molecule, as `parse` does.

    The record that this thread read last is not parsed again. So features that are computed
    while molecules are read cost no further parse. The caller must not change the result.

    Raises:
        MoleculeError: RDKit refuses the SMILES; that of a mol block it may refuse.
    """
    if _last_read.record is molecule and _last_read.mol is not None:
        return _last_read.mol
    return parse(molecule.smiles)


def in_order(molecule: Molecule) -> Chem.Mol:
    """Give RDKit's own record of a molecule, with the atoms of the record in their order.

    Raises:
        MoleculeError: it is an `ogb-1` record from a mol block whose order no SMILES of RDKit has.
    """
    return written(molecule)[1]


def written(molecule: Molecule) -> tuple[Chem.Mol, Chem.Mol, list[int]]:
    """Read the record's SMILES: as written, with the record's atoms alone, and which those are.

    Raises:
        MoleculeError: it is an `ogb-1` record from a mol block whose order no SMILES of RDKit has.
    """
    mol, _ = parse_with_sources(molecule.smiles, molecule.id)
    bare, recorded = _drop_stereo_hydrogens(mol, molecule.smiles, molecule.features)
    if not (
        np.array_equal(atom_rows(bare, molecule.features)[:, 0], molecule.atoms[:, 0])
        and np.array_equal(bond_rows(bare, molecule.features)[0], molecule.bonds)
    ):
        raise MoleculeError(f"{molecule.id}: {molecule.smiles} is not in the order of the record")
    return mol, bare, recorded


def parse_with_sources(text: str, name: str) -> tuple[Chem.Mol, list[int]]:
    """Read a SMILES; also say which atom of the text each atom is, as hydrogens are dropped."""
    if not text:
        raise MoleculeError(f"{name or 'molecule'}: the SMILES is empty")
    if len(text) > _LONGEST_SMILES:
        raise MoleculeError(
            f"{name}: the SMILES has {len(text):,} characters, at most {_LONGEST_SMILES:,} are read"
        )
    rest = text.split(maxsplit=1)[1:]
    if rest and not rest[0].startswith("|"):  # RDKit would take it for a name
        raise MoleculeError(
            f"{name}: the SMILES has a blank inside, one SMILES alone was expected: {shown(text)!r}"
        )
    if odd := odd_character(text.split(maxsplit=1)[0]):
        raise MoleculeError(
            f"{name}: not a valid SMILES {shown(text)!r}: it has the character {odd}"
        )
    _rdkit_errors.forget()
    writes_hydrogen = _WRITTEN_HYDROGEN.search(text) is not None
    mol = Chem.MolFromSmiles(text, _KEEP_HYDROGENS) if writes_hydrogen else Chem.MolFromSmiles(text)
    if mol is None:
        told = "" if text == name else f" {shown(text)}"
        raise MoleculeError(f"{name}: not a valid SMILES{told}: {_rdkit_errors.reason(text)}")
    return remove_hydrogens(mol, name) if writes_hydrogen else (mol, list(range(mol.GetNumAtoms())))


def remove_hydrogens(
    mol: Chem.Mol, name: str, parameters: Chem.RemoveHsParameters = _DEFAULT
) -> tuple[Chem.Mol, list[int]]:
    """Remove hydrogens, and say which atom of `mol` each remaining atom was."""
    for atom in list_atoms(mol):
        atom.SetIntProp("_source", atom.GetIdx())
    try:
        bare = Chem.RemoveHs(mol, parameters)
    except Chem.MolSanitizeException as error:
        raise MoleculeError(
            f"{name}: not a valid molecule without its hydrogens: {error}"
        ) from error
    return bare, [atom.GetIntProp("_source") for atom in list_atoms(bare)]


def build_record(
    mol: Chem.Mol, source: list[int], name: str, features: FeatureVersion, written: str = ""
) -> Molecule:
    """Build the record of `mol`, whose atoms are those of `source` in the input.

    `written` is the SMILES that `mol` was read from, if it was.
    """
    positions = np.zeros((0, mol.GetNumAtoms(), 3), np.float32)
    if mol.GetNumConformers() and mol.GetConformer().Is3D():
        geometry = mol.GetConformer().GetPositions()
        check_positions(geometry, name or "molecule")
        if len(geometry) == 1 or np.ptp(geometry, axis=0).any():  # all in one point: no coordinates
            positions = geometry.astype(np.float32)[None]
    smiles, parsed = written, mol if written else None
    if features == "cip-1":
        smiles = Chem.MolToSmiles(mol)
        if ":" in smiles:  # reaction numbers, which would change the canonical order
            for atom in list_atoms(mol):
                atom.SetAtomMapNum(0)
            smiles = Chem.MolToSmiles(mol)
        if smiles != written:
            order = [int(i) for i in mol.GetProp("_smilesAtomOutputOrder").strip("[,]").split(",")]
            mol, kept = parse_with_sources(smiles, name or smiles)
            order = [order[i] for i in kept]
            source = [source[i] for i in order]
            positions = _reordered(positions, order)
        if has_stereo := _STEREO_MARK.search(smiles) is not None:
            label_stereo(mol)
        parsed = mol
        mol, order = _drop_stereo_hydrogens(mol, smiles, features)
        source = [source[i] for i in order]
        positions = _reordered(positions, order)
    else:
        has_stereo = not written or _STEREO_MARK.search(written) is not None
        smiles = written or Chem.MolToSmiles(mol, canonical=False)
    bonds, bond_features = bond_rows(mol, features, has_stereo=has_stereo)
    record = Molecule(
        atoms=atom_rows(mol, features, has_stereo=has_stereo),
        bonds=bonds,
        bond_features=bond_features,
        positions=positions,
        id=name or smiles,
        smiles=smiles,
        source_atoms=np.array(source, np.int32),
        features=features,
    )
    _last_read.record, _last_read.mol = record, parsed
    return record


def _reordered(
    positions: Float32[np.ndarray, "c n 3"], order: list[int]
) -> Float32[np.ndarray, "c m 3"]:
    """Put atoms in another order; most molecules have no positions, and then it costs nothing."""
    return positions[:, order] if len(positions) else np.zeros((0, len(order), 3), np.float32)


def _drop_stereo_hydrogens(
    mol: Chem.Mol, smiles: str, features: FeatureVersion
) -> tuple[Chem.Mol, list[int]]:
    """For `cip-1`, remove hydrogens that only mark the stereo of an imine: it has its label."""
    if features == "cip-1" and "[H]" in smiles:
        return remove_hydrogens(mol, smiles, BARE)
    return mol, list(range(mol.GetNumAtoms()))


def check_positions(positions: Float[np.ndarray, "n 3"], name: str) -> None:
    """Refuse what is no place in a molecule, before arithmetic makes something of it."""
    if not (np.abs(positions) < FARTHEST).all():
        raise MoleculeError(f"{name}: positions must be numbers in Å below {FARTHEST:,.0f}")
