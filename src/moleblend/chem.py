"""From SMILES, mol blocks and XYZ to `Molecule`, by RDKit.

A `cip-1` record is a function of its canonical SMILES alone: whatever was read is written as
canonical SMILES, and that text is read again. So the record cannot depend on how a molecule was
drawn, ordered or kekulised; geometry and source indices merely follow their atoms. An `ogb-1`
record is what the published code sees: RDKit's atoms in RDKit's order.

Importing this module sends RDKit's messages to Python's logger `rdkit`, and from there, instead of
onto the terminal, into the sentence of the `MoleculeError`.
"""

import logging
import math
import re

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, Integer, UInt8
from rdkit import Chem, rdBase
from rdkit.Chem import (
    rdCIPLabeler,
    rdDetermineBonds,
)

from .complaints import Complaints, odd_character, shown
from .molecule import FARTHEST, FeatureVersion, Molecule, MoleculeError

_CIP_ITERATIONS = 100_000
"""Comparisons (about 0.1 s) after which CIP labels stay undecided; most molecules need < 10,000."""

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

_STEREO_MARK = re.compile(r"[@/\\]")

_LONGEST_SMILES = 20_000
"""Characters; no molecule that a model takes needs as many, and no clock stops RDKit's parser."""

_KEEP_HYDROGENS = Chem.SmilesParserParams()
_KEEP_HYDROGENS.removeHs = False

_DEFAULT = Chem.RemoveHsParameters()
_BARE = Chem.RemoveHsParameters()
_BARE.removeDefiningBondStereo = True

_LONGEST_BOND = 1.3
"""Length of the longest plausible bond, in sums of the two covalent radii."""

_COVALENT_RADII = np.array([Chem.GetPeriodicTable().GetRcovalent(number) for number in range(119)])

RDKIT_VERSION = rdBase.rdkitVersion


_complaints = Complaints()
rdBase.LogToPythonLogger()
logging.getLogger("rdkit").handlers = [_complaints]
logging.getLogger("rdkit").propagate = False


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
    mol, source = _parse_smiles(text, name)
    return _record(mol, source, name, features, written=text)


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
    _complaints.forget()
    with_hydrogens = Chem.MolFromMolBlock(block, removeHs=False)
    if with_hydrogens is None:
        raise MoleculeError(f"{name or 'mol block'}: not a valid mol block: {_complaints.reason()}")
    if with_hydrogens.GetNumAtoms() == 0:
        raise MoleculeError(f"{name or 'mol block'}: the mol block has no atoms")
    mol, source = _remove_hydrogens(with_hydrogens, name or "mol block")
    return _record(mol, source, name, features)


def read_xyz(
    atomic_numbers: Integer[np.ndarray, " n"],
    positions: Float[np.ndarray, "n 3"],
    smiles: str,
    *,
    id: str = "",
    features: FeatureVersion = "cip-1",
) -> Molecule:
    """Join a geometry without bonds to the SMILES that names them.

    Atoms in RDKit's order of the SMILES (heavy atoms, then hydrogens) are accepted if the elements
    agree and no bond is longer than 1.3 sums of covalent radii (in QM9 they reach 1.29, and 2.1 or
    more where the order differs). Otherwise bonds are read off the distances and mapped on the
    SMILES as graphs without bond orders; of several maps the one that gives high bond orders the
    short distances is taken.

    Args:
        atomic_numbers: of all atoms, or of the heavy atoms alone (then in the order of the SMILES).
        positions: in Å.
        smiles: its stereo marks are replaced by the stereo of the geometry.
        id: the molecule's name; the SMILES itself if empty.
        features: version of the features.

    Returns:
        A molecule with one geometry; `source_atoms` are rows of `positions`.

    Raises:
        MoleculeError: the SMILES is refused, or geometry and SMILES are not the same molecule.
    """
    text = smiles.strip()
    name = id or text or "molecule"
    numbers = np.asarray(atomic_numbers, np.int64)
    _check_positions(positions, name)
    read, _ = _parse_smiles(text, name)
    bare = Chem.RemoveHs(read, _BARE)
    for mol in (Chem.AddHs(bare), read, bare):
        if sorted(numbers) == sorted(atom.GetAtomicNum() for atom in _atoms(mol)):
            break
    else:
        raise MoleculeError(
            f"{name}: the geometry's {len(numbers)} atoms are not those of the SMILES {text}, "
            "neither with nor without hydrogens"
        )
    rows = np.arange(len(numbers))
    if not _is_plausible(mol, numbers, positions):
        has_all_atoms = not any(atom.GetTotalNumHs() for atom in _atoms(mol))
        matched = _match_geometry(mol, numbers, positions) if has_all_atoms else None
        if matched is None:
            raise MoleculeError(
                f"{name}: the distances of the geometry don't fit the bonds of {text}"
            )
        rows = matched
    mol.RemoveAllConformers()
    mol.AddConformer(_conformer(positions[rows]))
    Chem.AssignStereochemistryFrom3D(mol)
    mol, kept = _remove_hydrogens(mol, name)
    return _record(mol, [int(rows[i]) for i in kept], name, features)


def parse_xyz(text: str) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """Read the first frame of an XYZ file: atom count, comment, then `element x y z ...` per atom.

    Args:
        text: elements are symbols or numbers; further columns and frames are not read. Numbers may
            be written 1.2*^-6, as in QM9's files.

    Returns:
        Atomic numbers and positions in Å.

    Raises:
        MoleculeError: which line is wrong, and how.
    """
    lines = text.splitlines()
    if not lines or not lines[0].strip().isdecimal():
        raise MoleculeError(
            f"XYZ: line 1 must be the number of atoms, found {(lines or [''])[0]!r}"
        )
    n_atoms = int(lines[0])
    if len(lines) < n_atoms + 2:
        raise MoleculeError(
            f"XYZ: {n_atoms} atoms announced, but only {max(len(lines) - 2, 0)} follow"
        )
    table = Chem.GetPeriodicTable()
    numbers = np.zeros(n_atoms, np.int64)
    positions = np.zeros((n_atoms, 3))
    for row, line in enumerate(lines[2 : n_atoms + 2]):
        try:
            element, x, y, z = line.replace("*^", "e").split()[:4]
            numbers[row] = (
                int(element) if element.isdecimal() else table.GetAtomicNumber(element.capitalize())
            )
            positions[row] = float(x), float(y), float(z)
        except (ValueError, RuntimeError) as error:  # RuntimeError: RDKit does not know the symbol
            raise MoleculeError(
                f"XYZ: line {row + 3} must be an element and three numbers, found {line!r}"
            ) from error
    return numbers, positions


def parse(smiles: str) -> Chem.Mol:
    """Read a SMILES into RDKit's own record, for the other modules that know RDKit.

    Raises:
        MoleculeError: no SMILES, or one that RDKit refuses, with its reason.
    """
    mol, _ = _parse_smiles(smiles.strip(), smiles)
    return mol


def element_symbols(molecule: Molecule) -> list[str]:
    """Name the element of each atom; * where it is no element."""
    table = Chem.GetPeriodicTable()
    numbers = (molecule.atoms[:, 0].astype(int) + 1) % (_OTHER_ELEMENT + 1)
    return [table.GetElementSymbol(int(number)) for number in numbers]


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
    mol, _ = _parse_smiles(molecule.smiles, molecule.id)
    bare, recorded = _drop_stereo_hydrogens(mol, molecule.smiles, molecule.features)
    if not (
        np.array_equal(_atom_rows(bare, molecule.features)[:, 0], molecule.atoms[:, 0])
        and np.array_equal(_bond_rows(bare, molecule.features)[0], molecule.bonds)
    ):
        raise MoleculeError(f"{molecule.id}: {molecule.smiles} is not in the order of the record")
    return mol, bare, recorded


def _parse_smiles(text: str, name: str) -> tuple[Chem.Mol, list[int]]:
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
    _complaints.forget()
    writes_hydrogen = _WRITTEN_HYDROGEN.search(text) is not None
    mol = Chem.MolFromSmiles(text, _KEEP_HYDROGENS) if writes_hydrogen else Chem.MolFromSmiles(text)
    if mol is None:
        told = "" if text == name else f" {shown(text)}"
        raise MoleculeError(f"{name}: not a valid SMILES{told}: {_complaints.reason(text)}")
    return (
        _remove_hydrogens(mol, name) if writes_hydrogen else (mol, list(range(mol.GetNumAtoms())))
    )


def _remove_hydrogens(
    mol: Chem.Mol, name: str, parameters: Chem.RemoveHsParameters = _DEFAULT
) -> tuple[Chem.Mol, list[int]]:
    """Remove hydrogens, and say which atom of `mol` each remaining atom was."""
    for atom in _atoms(mol):
        atom.SetIntProp("_source", atom.GetIdx())
    try:
        bare = Chem.RemoveHs(mol, parameters)
    except Chem.MolSanitizeException as error:
        raise MoleculeError(
            f"{name}: not a valid molecule without its hydrogens: {error}"
        ) from error
    return bare, [atom.GetIntProp("_source") for atom in _atoms(bare)]


def _record(
    mol: Chem.Mol, source: list[int], name: str, features: FeatureVersion, written: str = ""
) -> Molecule:
    """Build the record of `mol`, whose atoms are those of `source` in the input.

    `written` is the SMILES that `mol` was read from, if it was.
    """
    positions = np.zeros((0, mol.GetNumAtoms(), 3), np.float32)
    if mol.GetNumConformers() and mol.GetConformer().Is3D():
        geometry = mol.GetConformer().GetPositions()
        _check_positions(geometry, name or "molecule")
        if len(geometry) == 1 or np.ptp(geometry, axis=0).any():  # all in one point: no coordinates
            positions = geometry.astype(np.float32)[None]
    smiles = written
    if features == "cip-1":
        smiles = Chem.MolToSmiles(mol)
        if ":" in smiles:  # reaction numbers, which would change the canonical order
            for atom in _atoms(mol):
                atom.SetAtomMapNum(0)
            smiles = Chem.MolToSmiles(mol)
        if smiles != written:
            order = [int(i) for i in mol.GetProp("_smilesAtomOutputOrder").strip("[,]").split(",")]
            mol, kept = _parse_smiles(smiles, name or smiles)
            order = [order[i] for i in kept]
            source = [source[i] for i in order]
            positions = _reordered(positions, order)
        if has_stereo := _STEREO_MARK.search(smiles) is not None:
            _label(mol)
        mol, order = _drop_stereo_hydrogens(mol, smiles, features)
        source = [source[i] for i in order]
        positions = _reordered(positions, order)
    else:
        has_stereo = not written or _STEREO_MARK.search(written) is not None
        smiles = written or Chem.MolToSmiles(mol, canonical=False)
    bonds, bond_features = _bond_rows(mol, features, has_stereo=has_stereo)
    return Molecule(
        atoms=_atom_rows(mol, features, has_stereo=has_stereo),
        bonds=bonds,
        bond_features=bond_features,
        positions=positions,
        id=name or smiles,
        smiles=smiles,
        source_atoms=np.array(source, np.int32),
        features=features,
    )


def _reordered(
    positions: Float32[np.ndarray, "c n 3"], order: list[int]
) -> Float32[np.ndarray, "c m 3"]:
    """Put atoms in another order; most molecules have no positions, and then it costs nothing."""
    return positions[:, order] if len(positions) else np.zeros((0, len(order), 3), np.float32)


def _label(mol: Chem.Mol) -> None:
    """Set the CIP labels of atoms and bonds that are decided within `_CIP_ITERATIONS`.

    The rules know no bonds of half an order, as some metal complexes are drawn with; what such a
    molecule has of labels by then is all it gets.
    """
    try:
        rdCIPLabeler.AssignCIPLabels(mol, maxRecursiveIterations=_CIP_ITERATIONS)
    except RuntimeError as error:
        undecided = ("Max Iterations Exceeded", "Non integer-order bonds")
        if not any(reason in str(error) for reason in undecided):
            raise


def _atoms(mol: Chem.Mol) -> list[Chem.Atom]:
    """List the atoms; several times faster than `mol.GetAtoms()`."""
    return [mol.GetAtomWithIdx(i) for i in range(mol.GetNumAtoms())]


def _bonds(mol: Chem.Mol) -> list[Chem.Bond]:
    """List the bonds; several times faster than `mol.GetBonds()`."""
    return [mol.GetBondWithIdx(i) for i in range(mol.GetNumBonds())]


def _atom_rows(
    mol: Chem.Mol, features: FeatureVersion, *, has_stereo: bool = True
) -> UInt8[np.ndarray, "n 9"]:
    """Return the nine features of each atom (`ATOM_FEATURES`).

    Without stereo nobody is asked for his: that is a tenth of the time.
    """
    values = []
    for atom in _atoms(mol):
        number = atom.GetAtomicNum()
        charge = atom.GetFormalCharge() + 5
        if not has_stereo:
            chirality = 0
        elif features == "ogb-1":
            chirality = _CHIRAL_TAGS.get(atom.GetChiralTag(), _OTHER_TAG)
        else:
            chirality = _ATOM_LABELS.get(_cip_label(atom), 0)
        values += (
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
    return np.array(values, np.uint8).reshape(-1, 9)


def _bond_rows(
    mol: Chem.Mol, features: FeatureVersion, *, has_stereo: bool = True
) -> tuple[Int32[np.ndarray, "m 2"], UInt8[np.ndarray, "m 3"]]:
    """Return the atoms of each bond, sorted, and its three features (`BOND_FEATURES`)."""
    rows = []
    for bond in _bonds(mol):
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if not has_stereo:
            stereo = 0
        elif features == "ogb-1":
            stereo = _BOND_STEREO.get(bond.GetStereo(), _OTHER_STEREO)
        else:
            stereo = _BOND_LABELS.get(_cip_label(bond), 0)
        kind = _BOND_TYPES.get(bond.GetBondType(), _OTHER_BOND)
        rows.append((min(i, j), max(i, j), kind, stereo, bond.GetIsConjugated()))
    table = np.array(sorted(rows), np.int32).reshape(-1, 5)
    return table[:, :2].copy(), table[:, 2:].astype(np.uint8)


def _cip_label(part: Chem.Atom | Chem.Bond) -> str:
    """Return R, S, r, s of an atom, E, Z, e, z of a bond, or nothing."""
    return part.GetProp("_CIPCode") if part.HasProp("_CIPCode") else ""


def _drop_stereo_hydrogens(
    mol: Chem.Mol, smiles: str, features: FeatureVersion
) -> tuple[Chem.Mol, list[int]]:
    """For `cip-1`, remove hydrogens that only mark the stereo of an imine: it has its label."""
    if features == "cip-1" and "[H]" in smiles:
        return _remove_hydrogens(mol, smiles, _BARE)
    return mol, list(range(mol.GetNumAtoms()))


def _is_plausible(
    mol: Chem.Mol, numbers: Int[np.ndarray, " n"], positions: Float[np.ndarray, "n 3"]
) -> bool:
    """Whether the geometry, taken in the order of `mol`, has its elements and no torn bond."""
    if any(
        atom.GetAtomicNum() != number for atom, number in zip(_atoms(mol), numbers, strict=True)
    ):
        return False
    ends = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in _bonds(mol)]).reshape(-1, 2)
    ends = ends.astype(np.int64)
    lengths = np.linalg.norm(positions[ends[:, 0]] - positions[ends[:, 1]], axis=1)
    return bool((lengths <= _LONGEST_BOND * _COVALENT_RADII[numbers[ends]].sum(axis=1)).all())


def _match_geometry(
    mol: Chem.Mol, numbers: Int[np.ndarray, " n"], positions: Float[np.ndarray, "n 3"]
) -> Int[np.ndarray, " n"] | None:
    """Find the row of the geometry for each atom of `mol`; None if the two graphs differ."""
    geometry = Chem.RWMol()
    for number in numbers:
        geometry.AddAtom(Chem.Atom(int(number)))
    geometry.AddConformer(_conformer(positions))
    rdDetermineBonds.DetermineConnectivity(geometry, useVdw=True, covFactor=1.15)
    wanted, wanted_atoms = _skeleton(mol)
    found, found_atoms = _skeleton(geometry)
    if found.GetNumBonds() != wanted.GetNumBonds():
        return None
    shortest = math.inf
    best = None
    orders = [
        (b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondTypeAsDouble()) for b in _bonds(mol)
    ]
    for match in found.GetSubstructMatches(wanted, uniquify=False, maxMatches=1000):
        rows = np.zeros(len(numbers), np.int64)
        for atoms, atom in zip(wanted_atoms, match, strict=True):
            rows[atoms] = found_atoms[atom]
        # Every match uses the same distances, so the sum is least where high orders are short.
        total = sum(
            k * np.linalg.norm(positions[rows[i]] - positions[rows[j]]) for i, j, k in orders
        )
        if total < shortest:
            shortest, best = total, rows
    return best


def _skeleton(mol: Chem.Mol) -> tuple[Chem.Mol, list[list[int]]]:
    """Join heavy atoms by single bonds, and list for each its atom of `mol` and the hydrogens.

    The number of hydrogens stands in the isotope, so that a substructure match has to respect it.
    """
    skeleton = Chem.RWMol()
    members: list[list[int]] = []
    place: dict[int, int] = {}
    for atom in _atoms(mol):
        if atom.GetAtomicNum() == 1:
            continue
        hydrogens = [other.GetIdx() for other in atom.GetNeighbors() if other.GetAtomicNum() == 1]
        bare = Chem.Atom(atom.GetAtomicNum())
        bare.SetIsotope(1 + len(hydrogens))
        place[atom.GetIdx()] = skeleton.AddAtom(bare)
        members.append([atom.GetIdx(), *hydrogens])
    for bond in _bonds(mol):
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if i in place and j in place:
            skeleton.AddBond(place[i], place[j], Chem.BondType.SINGLE)
    return skeleton.GetMol(), members


def _check_positions(positions: Float[np.ndarray, "n 3"], name: str) -> None:
    """Refuse what is no place in a molecule, before arithmetic makes something of it."""
    if not (np.abs(positions) < FARTHEST).all():
        raise MoleculeError(f"{name}: positions must be numbers in Å below {FARTHEST:,.0f}")


def _conformer(positions: Float[np.ndarray, "n 3"]) -> Chem.Conformer:
    conformer = Chem.Conformer(len(positions))
    conformer.Set3D(True)
    conformer.SetPositions(np.ascontiguousarray(positions, np.float64))
    return conformer
