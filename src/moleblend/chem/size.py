"""The largest molecule that is given to RDKit, counted in the text before RDKit reads it.

RDKit follows the bonds of a molecule recursively. A molecule of absurd size exhausts the stack and
ends the process, without an exception. In a thread with a stack of 512 KiB (the default of macOS),
RDKit 2026.09.1 reads 1,000 atoms in a chain, but not 2,000.
"""

import re

from moleblend.errors import TooLargeError

MOST_ATOMS = 1_000
"""Heavy atoms of the largest molecule that is read; four times as many with hydrogens."""

_ATOM = re.compile(r"\[\d*(?:(?P<hydrogen>H)(?=[+\-\d:\]])|[^\]]*)|Cl|Br|[BCNOPSFIbcnops*]")
_V30 = "M  V30 "
_HYDROGENS = frozenset("HDT")


def check_smiles_size(smiles: str, name: str) -> None:
    """Refuse a SMILES with too many atoms.

    Args:
        smiles: any text.
        name: of the molecule, for the message.

    Raises:
        TooLargeError: the message has the number of atoms.
    """
    if len(smiles) <= MOST_ATOMS:
        return
    is_hydrogen = [match["hydrogen"] is not None for match in _ATOM.finditer(smiles)]
    n_hydrogens = sum(is_hydrogen)
    check_size(len(is_hydrogen) - n_hydrogens, n_hydrogens, name)


def check_block_size(block: str, name: str) -> None:
    """Refuse a mol block with too many atoms. Arguments and errors as of `check_smiles_size`."""
    if block.count("\n") <= MOST_ATOMS:
        return
    lines = block.splitlines()
    if any("V3000" in line for line in lines[3:4]):
        entries = [line.removeprefix(_V30).split() for line in lines if line.startswith(_V30)]
        marks = [" ".join(words[:2]).upper() for words in entries]
        start = marks.index("BEGIN ATOM") + 1 if "BEGIN ATOM" in marks else 0
        end = marks.index("END ATOM") if "END ATOM" in marks else len(entries)
        symbols = [words[1] for words in entries[start:end] if len(words) > 1]
    else:
        counted = lines[3][:3].strip() if len(lines) > 3 else ""
        n_atoms = int(counted) if counted.isdecimal() else 0
        symbols = [line[31:34].strip() for line in lines[4 : 4 + n_atoms]]
    n_hydrogens = sum(symbol in _HYDROGENS for symbol in symbols)
    check_size(len(symbols) - n_hydrogens, n_hydrogens, name)


def check_size(n_heavy: int, n_hydrogens: int, name: str) -> None:
    """Refuse numbers of atoms. Errors as of `check_smiles_size`."""
    if n_heavy > MOST_ATOMS or n_heavy + n_hydrogens > 4 * MOST_ATOMS:
        hydrogens = f" and {n_hydrogens:,} hydrogens" if n_hydrogens else ""
        raise TooLargeError(
            f"{name}: {n_heavy:,} atoms{hydrogens}, moleblend reads at most {MOST_ATOMS:,} atoms "
            f"({4 * MOST_ATOMS:,} with hydrogens)"
        )
