#!/usr/bin/env bash
# RDKit 2026.9.1: MolFromPDBBlock leaves out atoms by their alternate-location code, without a message.
#
# Column 17 of a PDB record names the alternate location of an atom. Atoms with a blank, "A" or "1" are
# read, atoms with any other code are not, also where no other location of that atom is in the file (a
# ligand that was cut out as conformer B keeps its code). The molecule that comes back is smaller, and
# nothing is logged. A reader has to compare the number of atoms with the number of records.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check rdkit==2026.9.1
"$folder/venv/bin/python" - <<'PY'
import logging

from rdkit import Chem, rdBase

rdBase.LogToPythonLogger()
messages = []
logging.getLogger("rdkit").handlers = [logging.Handler()]
logging.getLogger("rdkit").handlers[0].emit = messages.append
print("rdkit", rdBase.rdkitVersion)


def record(serial, name, location, x, element):
    start = f"HETATM{serial:5d}  {name:<3}{location}LIG A   1    "
    return f"{start}{x:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00          {element:>2}"


for location, n_expected in {" ": 3, "A": 3, "1": 3, "B": 1, "C": 1}.items():
    block = "\n".join(
        [
            record(1, "C1", location, 0.0, "C"),
            record(2, "C2", location, 1.5, "C"),
            record(3, "O1", " ", 2.9, "O"),
            "END\n",
        ]
    )
    n_atoms = Chem.MolFromPDBBlock(block).GetNumAtoms()
    print(f"two of three atoms have location {location!r}: {n_atoms} atoms are read")
    assert n_atoms == n_expected, "the behaviour has changed"
assert not messages, "the behaviour has changed: there is a message now"
print("messages:", len(messages))
PY
