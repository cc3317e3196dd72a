#!/usr/bin/env bash
# RDKit 2026.9.1: whether a flat mol block tagged "3D" counts as a geometry depends on its stereo marks.
#
# Line 2 of a mol block has a dimension code. Some programs write "3D" above a drawing whose z are all
# 0. RDKit corrects the tag only where it also finds a 2D stereo mark: a wedge, or a double bond marked
# as crossed. Without one, the drawing is accepted as a 3D conformer, and cis/trans is then read from
# the drawn positions. So of two records of one file one can be a "geometry" and the other a drawing.
# A program that tests Conformer.Is3D() has to test the coordinates as well.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check rdkit==2026.9.1
"$folder/venv/bin/python" - <<'PY'
from rdkit import Chem, RDLogger, rdBase
from rdkit.Chem import rdDepictor

RDLogger.DisableLog("rdApp.*")
print("rdkit", rdBase.rdkitVersion)
expected = {
    "CCO": True,  # no stereo: the drawing counts as 3D
    "CC(N)C(=O)O": True,  # a stereo centre without a wedge: the drawing counts as 3D
    "C[C@H](N)C(=O)O": False,  # one wedge: the tag is corrected to 2D
    "F/C=C/F": True,  # a defined double bond: 3D
    "FC=CF": False,  # the same bond, undefined, is written as crossed: 2D
}
for smiles, is_3d in expected.items():
    drawing = Chem.MolFromSmiles(smiles)
    rdDepictor.Compute2DCoords(drawing)
    lines = Chem.MolToMolBlock(drawing).split("\n")
    assert lines[1].rstrip().endswith("2D")
    lines[1] = lines[1].replace("2D", "3D")
    conformer = Chem.MolFromMolBlock("\n".join(lines)).GetConformer()
    assert not conformer.GetPositions()[:, 2].any()
    print(f"{smiles:<18} all z are 0, Is3D() {conformer.Is3D()}")
    assert conformer.Is3D() is is_3d, "the behaviour has changed"
PY
