"""Reading SMILES and mol blocks into `Molecule` with RDKit.

A `cip-1` record is a function of its canonical SMILES alone: any input is written as canonical
SMILES, and that SMILES is parsed again. The record therefore does not depend on how a molecule was
drawn, ordered or kekulised; geometry and source indices follow their atoms. An `ogb-1` record has
RDKit's atoms in RDKit's order, as in the published code.

Importing this module redirects RDKit's messages to Python's logger `rdkit`. They are not printed;
they become the reason in a `MoleculeError`.
"""

import logging
import re
import threading

import numpy as np
from jaxtyping import Float32
from rdkit import Chem, rdBase

from moleblend.chem.featurizer import atom_rows, bond_rows, label_stereo, list_atoms
from moleblend.chem.geometry_check import check_geometry, has_all_hydrogens
from moleblend.chem.identity import check_specific, read_stereo_groups
from moleblend.chem.molecule import FeatureVersion, Molecule, MoleculeError, check_positions
from moleblend.chem.parse_errors import (
    RdkitErrorCollector,
    invalid_character,
    rdkit_refusals,
    shown,
)
from moleblend.chem.size import check_block_size, check_smiles_size
from moleblend.config import check_type

_WRITTEN_HYDROGEN = re.compile(r"\[\d*H")
"""Matches a bracket that may be a hydrogen atom; Hg, Ho, ... match too, which only costs time."""

_STEREO_MARK = re.compile(r"[@/\\]")

_LONGEST_SMILES = 20_000
"""Number of characters. RDKit's parser has no time limit, and no usable molecule needs as many."""

_KEEP_HYDROGENS = Chem.SmilesParserParams()
_KEEP_HYDROGENS.removeHs = False

_DEFAULT = Chem.RemoveHsParameters()
REMOVE_STEREO_HYDROGENS = Chem.RemoveHsParameters()
REMOVE_STEREO_HYDROGENS.removeDefiningBondStereo = True

RDKIT_VERSION = rdBase.rdkitVersion

_rdkit_errors = RdkitErrorCollector()
rdBase.LogToPythonLogger()
logging.getLogger("rdkit").handlers = [_rdkit_errors]
logging.getLogger("rdkit").propagate = False


class _LastRead(threading.local):
    """The record that this thread read last, and the RDKit molecule of its SMILES."""

    def __init__(self) -> None:
        self.record: Molecule | None = None
        self.mol: Chem.Mol | None = None


_last_read = _LastRead()


def read_smiles(smiles: str, *, id: str = "", features: FeatureVersion = "cip-1") -> Molecule:
    """Read a SMILES.

    Args:
        smiles: one SMILES; surrounding spaces are ignored.
        id: the molecule's name; the SMILES itself if empty.
        features: the feature version.

    Returns:
        A molecule without positions.

    Raises:
        MoleculeError: the SMILES is empty or invalid; the message has RDKit's reason.

    Example:
        >>> read_smiles("OCC").smiles, read_smiles("OCC").source_atoms.tolist()
        ('CCO', [2, 1, 0])
    """
    check_type("smiles", smiles, str)
    text = smiles.strip()
    name = id or (text if len(text) <= _LONGEST_SMILES else f"{text[:40]}...") or "molecule"
    with rdkit_refusals(name):
        mol, source = parse_with_sources(text, name)
        return build_record(mol, source, name, features, written=text)


def count_atoms(smiles: str) -> int:
    """Count the heavy atoms of a SMILES; 0 if it is not a molecule."""
    try:
        return read_smiles(smiles, features="ogb-1").n_atoms  # the faster version
    except MoleculeError:
        return 0


def read_mol_block(block: str, *, id: str = "", features: FeatureVersion = "cip-1") -> Molecule:
    """Read a mol block, V2000 or V3000, as RDKit's SDMolSupplier does by default.

    Args:
        block: the text up to `M  END`; the rest is ignored.
        id: the molecule's name; if empty, the title line of the block, or else its SMILES.
        features: the feature version.

    Returns:
        A molecule with one geometry (Å), if the coordinates are one: `check_geometry` decides, not
        the header of the block. Its stereo is that of the geometry. A drawing gives no geometry;
        its stereo is that of its wedges. `geometry_note` has the reason.

    Raises:
        MoleculeError: RDKit cannot read the block; the message has its reason.
    """
    check_type("block", block, str)
    name = id or block.split("\n", 1)[0].strip()
    check_block_size(block, name or "mol block")
    with rdkit_refusals(name or "mol block"):
        _rdkit_errors.clear()
        with_hydrogens = Chem.MolFromMolBlock(block, removeHs=False)
        if with_hydrogens is None:
            raise MoleculeError(
                f"{name or 'mol block'}: not a valid mol block: {_rdkit_errors.reason()}"
            )
        if with_hydrogens.GetNumAtoms() == 0:
            raise MoleculeError(f"{name or 'mol block'}: the mol block has no atoms")
        check_specific(with_hydrogens, name or "mol block")
        with_hydrogens, note = _checked_geometry(with_hydrogens, block, name or "mol block")
        mol, source = remove_hydrogens(with_hydrogens, name or "mol block")
        return build_record(mol, source, name, features, geometry_note=note)


def _checked_geometry(mol: Chem.Mol, block: str, name: str) -> tuple[Chem.Mol, str]:
    """Parse a mol block again if its header contradicts its coordinates.

    Returns:
        The molecule, with a 3D conformer only if the coordinates are a geometry in Å; and why they
        are not, if they are neither a geometry nor marked as a drawing.
    """
    conformer = mol.GetConformer()
    positions, is_3d = conformer.GetPositions(), conformer.Is3D()
    check_positions(positions, name)
    is_marked_3d = is_3d or block.split("\n", 2)[1][20:22].upper() == "3D"
    if not (is_marked_3d or _may_be_3d(mol)):
        return mol, ""
    check = check_geometry(mol, positions)
    if check.kind == "geometry":
        return (mol if is_3d else _parsed_as(block, "3D", name)), ""
    if not is_marked_3d:
        return mol, ""
    if check.kind == "drawing" and is_3d:
        mol = _parsed_as(block, "2D", name)
    elif check.kind == "refused" and check.ratio != 1.0:
        # RDKit recognises the stereo of a geometry in Å only.
        conformer.SetPositions(positions / check.ratio)
        Chem.AssignStereochemistryFrom3D(mol)
    mol.RemoveAllConformers()
    return mol, "" if check.kind == "none" else check.reason


def _may_be_3d(mol: Chem.Mol) -> bool:
    """Tell whether a molecule has hydrogens as atoms, or needs none, as most geometries."""
    if mol.GetNumBonds() == 0:
        return False
    has_hydrogens = any(atom.GetAtomicNum() == 1 for atom in list_atoms(mol))
    return has_hydrogens or has_all_hydrogens(mol)


def _parsed_as(block: str, dimension: str, name: str) -> Chem.Mol:
    """Parse a mol block with another dimension in its header."""
    title, header, rest = block.split("\n", 2)
    header = header.rstrip("\r")
    marked = f"{header[:20]:<20}{dimension}{header[22:]}"
    mol = Chem.MolFromMolBlock("\n".join([title, marked, rest]), removeHs=False)
    if mol is None:
        raise MoleculeError(
            f"{name}: not a valid mol block as {dimension}: {_rdkit_errors.reason()}"
        )
    return mol


def parse(smiles: str) -> Chem.Mol:
    """Read a SMILES into an RDKit molecule, for the other modules of this package.

    Raises:
        MoleculeError: the SMILES is empty or invalid; the message has RDKit's reason.
    """
    mol, _ = parse_with_sources(smiles.strip(), smiles)
    return mol


def parse_record(molecule: Molecule) -> Chem.Mol:
    """Read the SMILES of a record into an RDKit molecule, as `parse` does.

    The record that this thread read last is not parsed again. Features that are computed while
    molecules are read therefore need no further parse. Callers must not change the result.

    Raises:
        MoleculeError: RDKit cannot read the SMILES, which can happen for a mol block.
    """
    if _last_read.record is molecule and _last_read.mol is not None:
        return _last_read.mol
    return parse(molecule.smiles)


def in_order(molecule: Molecule) -> Chem.Mol:
    """Return the RDKit molecule of a record, with the atoms in the order of the record.

    Raises:
        MoleculeError: the record is an `ogb-1` record of a mol block, and RDKit cannot write a
            SMILES with its order of atoms.
    """
    return parse_in_order(molecule)[1]


def parse_in_order(molecule: Molecule) -> tuple[Chem.Mol, Chem.Mol, list[int]]:
    """Parse the SMILES of a record and check that its atoms are in the order of the record.

    Returns:
        The molecule as written; the same with the atoms of the record only; and the indices of
        these atoms in the first one. They differ for hydrogens that only mark stereo.

    Raises:
        MoleculeError: the record is an `ogb-1` record of a mol block, and RDKit cannot write a
            SMILES with its order of atoms.
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
    """Parse a SMILES without its hydrogens; also return the index of each atom in the text."""
    if not text:
        raise MoleculeError(f"{name or 'molecule'}: the SMILES is empty")
    if len(text) > _LONGEST_SMILES:
        raise MoleculeError(
            f"{name}: the SMILES has {len(text):,} characters, at most {_LONGEST_SMILES:,} are "
            "allowed"
        )
    check_smiles_size(text, name)
    rest = text.split(maxsplit=1)[1:]
    if rest and not rest[0].startswith("|"):  # RDKit would read it as a name
        raise MoleculeError(
            f"{name}: the SMILES contains a space, expected a single SMILES: {shown(text)!r}"
        )
    if invalid := invalid_character(text.split(maxsplit=1)[0]):
        raise MoleculeError(
            f"{name}: not a valid SMILES {shown(text)!r}: it contains the character {invalid}"
        )
    _rdkit_errors.clear()
    writes_hydrogen = _WRITTEN_HYDROGEN.search(text) is not None
    mol = Chem.MolFromSmiles(text, _KEEP_HYDROGENS) if writes_hydrogen else Chem.MolFromSmiles(text)
    if mol is None:
        quoted = "" if text == name else f" {shown(text)}"
        raise MoleculeError(f"{name}: not a valid SMILES{quoted}: {_rdkit_errors.reason(text)}")
    if "|" in text:
        check_specific(mol, name)
    return remove_hydrogens(mol, name) if writes_hydrogen else (mol, list(range(mol.GetNumAtoms())))


def remove_hydrogens(
    mol: Chem.Mol, name: str, parameters: Chem.RemoveHsParameters = _DEFAULT
) -> tuple[Chem.Mol, list[int]]:
    """Remove hydrogens; also return the index in `mol` of each remaining atom."""
    atoms = list_atoms(mol)
    if not any(atom.GetAtomicNum() == 1 for atom in atoms):
        return mol, list(range(len(atoms)))
    for atom in atoms:
        atom.SetIntProp("_source", atom.GetIdx())
    try:
        bare = Chem.RemoveHs(mol, parameters)
    except Chem.MolSanitizeException as error:
        raise MoleculeError(
            f"{name}: not a valid molecule without its hydrogens: {error}"
        ) from error
    return bare, [atom.GetIntProp("_source") for atom in list_atoms(bare)]


def build_record(
    mol: Chem.Mol,
    source: list[int],
    name: str,
    features: FeatureVersion,
    written: str = "",
    geometry_note: str = "",
) -> Molecule:
    """Build the record of an RDKit molecule.

    Args:
        mol: without removable hydrogens; its 3D conformer becomes the geometry.
        source: the index in the input of each atom.
        name: the molecule's name; its SMILES if empty.
        features: the feature version.
        written: the SMILES that `mol` was parsed from; empty for other inputs.
        geometry_note: why coordinates of the input are not used.
    """
    mol, identity = read_stereo_groups(mol) if not written or "|" in written else (mol, "")
    if identity:
        written = ""  # it has stereo marks that the record does not have
    positions = np.zeros((0, mol.GetNumAtoms(), 3), np.float32)
    if mol.GetNumConformers() and mol.GetConformer().Is3D():
        geometry = mol.GetConformer().GetPositions()
        check_positions(geometry, name or "molecule")
        # If all atoms are in one point, there are no coordinates.
        if len(geometry) == 1 or np.ptp(geometry, axis=0).any():
            positions = geometry.astype(np.float32)[None]
    smiles, parsed = written, mol if written else None
    if features == "cip-1":
        smiles = Chem.MolToSmiles(mol)
        if ":" in smiles:  # atom map numbers would change the canonical order
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
        geometry_note=geometry_note,
        stereo_identity=identity,
    )
    _last_read.record, _last_read.mol = record, parsed
    return record


def _reordered(
    positions: Float32[np.ndarray, "c n 3"], order: list[int]
) -> Float32[np.ndarray, "c m 3"]:
    """Reorder atoms; fast for the common case without positions."""
    return positions[:, order] if len(positions) else np.zeros((0, len(order), 3), np.float32)


def _drop_stereo_hydrogens(
    mol: Chem.Mol, smiles: str, features: FeatureVersion
) -> tuple[Chem.Mol, list[int]]:
    """For `cip-1`, remove hydrogens that only mark the stereo of an imine, which has a label."""
    if features == "cip-1" and "[H]" in smiles:
        return remove_hydrogens(mol, smiles, REMOVE_STEREO_HYDROGENS)
    return mol, list(range(mol.GetNumAtoms()))
