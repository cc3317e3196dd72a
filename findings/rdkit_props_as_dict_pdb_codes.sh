#!/usr/bin/env bash
# RDKit 2026.9.1: GetPropsAsDict turns identifiers of an SDF file into numbers; PandasTools.LoadSDF does not.
#
# By default GetPropsAsDict() converts texts that look like numbers. A PDB code such as 1E10 becomes
# 10000000000.0, a registry number 007 becomes 7, and "inf" becomes a float. PandasTools.LoadSDF of the
# same release keeps the texts of the same file, so a join between the two ways to read one file loses
# rows. GetPropsAsDict(autoConvertStrings=False) keeps them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check rdkit==2026.9.1 pandas==3.0.6
"$folder/venv/bin/python" - <<'PY'
from io import BytesIO, StringIO

from rdkit import Chem, rdBase
from rdkit.Chem import PandasTools

print("rdkit", rdBase.rdkitVersion)
given = {"pdb": "1E10", "registry": "007", "flag": "inf", "cas": "64-17-5"}
molecule = Chem.MolFromSmiles("CCO")
for name, text in given.items():
    molecule.SetProp(name, text)
file = StringIO()
with Chem.SDWriter(file) as writer:
    writer.write(molecule)
supplier = Chem.SDMolSupplier()
supplier.SetData(file.getvalue())
converted = next(supplier).GetPropsAsDict()
frame = PandasTools.LoadSDF(BytesIO(file.getvalue().encode()))
print("written        ", given)
print("GetPropsAsDict ", converted)
print("LoadSDF        ", {name: frame[name][0] for name in given})
expected = {"pdb": 1e10, "registry": 7, "flag": float("inf"), "cas": "64-17-5"}
assert converted == expected, "the behaviour has changed"
assert {name: frame[name][0] for name in given} == given, "the behaviour has changed"
supplier.SetData(file.getvalue())
assert next(supplier).GetPropsAsDict(autoConvertStrings=False) == given
PY
