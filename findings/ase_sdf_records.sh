#!/usr/bin/env bash
# ASE 3.29.0: of an SDF file it reads the first record only, and of a V3000 record no atom, without an error.
#
# ase.io.read(file, index=":") gives all frames of an XYZ file. Of an SDF file with two records the same
# call gives one structure. A V3000 record, which every current toolkit may write, comes back as a
# structure of 0 atoms. Both look like success. A file has to be cut into V2000 records before.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ase==3.29.0 rdkit==2026.9.1 numpy==2.3.5
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from pathlib import Path

import ase
import ase.io
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom

print("ase", ase.__version__, "rdkit", rdBase.rdkitVersion)


def record(smiles, *, v3000=False):
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(molecule, randomSeed=1)
    return Chem.MolToMolBlock(molecule, forceV3000=v3000) + "$$$$\n"


Path("two.sdf").write_text(record("CCO") + record("CC"))
structures = ase.io.read("two.sdf", index=":")
print("two V2000 records, index=':' :", [one.get_chemical_formula() for one in structures])
assert [len(one) for one in structures] == [9], "the behaviour has changed"

Path("two.xyz").write_text("1\n\nHe 0 0 0\n2\n\nH 0 0 0\nH 0 0 0.74\n")
assert [len(one) for one in ase.io.read("two.xyz", index=":")] == [1, 2]

Path("v3000.sdf").write_text(record("CCO", v3000=True))
n_atoms = len(ase.io.read("v3000.sdf"))
print("one V3000 record of 9 atoms:", n_atoms, "atoms")
assert n_atoms == 0, "the behaviour has changed"
PY
