#!/usr/bin/env bash
# Open Babel 3.1.1 (wheel 3.1.1.23): a dative bond that RDKit writes costs the donor its hydrogens.
#
# RDKit 2026.9.1 writes a dative bond as bond type 9, in V2000 and in V3000. Open Babel reads the type
# as a valence: the ammonia ligands of cisplatin come back as bare nitrogen atoms, so two NH3 (6
# hydrogens) are lost in a conversion from mol block to SMILES, without a message. RDKit reads its own block
# back as it was.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check rdkit==2026.9.1 openbabel-wheel==3.1.1.23
"$folder/venv/bin/python" - <<'PY'
from openbabel import openbabel, pybel
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

print("rdkit", rdBase.rdkitVersion, "Open Babel", openbabel.OBReleaseVersion())
molecule = Chem.MolFromSmiles("Cl[Pt](Cl)(<-N)<-N")
rdDepictor.Compute2DCoords(molecule)
for v3000 in (False, True):
    block = Chem.MolToMolBlock(molecule, forceV3000=v3000)
    again = CalcMolFormula(Chem.MolFromMolBlock(block))
    other = pybel.readstring("mol", block)
    smiles = other.write("can").split("\t")[0].strip()
    print(f"{'V3000' if v3000 else 'V2000'}: RDKit {again}; Open Babel {other.formula} {smiles}")
    assert again == CalcMolFormula(molecule) == "H6Cl2N2Pt"
    assert other.formula == "Cl2N2Pt", "the behaviour has changed"
    assert smiles == "Cl[Pt]([N])([N])Cl", "the behaviour has changed"
PY
