import logging

import pytest

from moleblend.chem.parse_errors import RdkitErrorCollector, odd_character, shown


def complained(*texts: str) -> RdkitErrorCollector:
    complaints = RdkitErrorCollector()
    complaints.forget()
    for text in texts:
        complaints.emit(logging.makeLogRecord({"levelno": logging.ERROR, "msg": text}))
    return complaints


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "Explicit valence for atom # 1 C, 5, is greater than permitted",
            "atom 2, C, has a valence of 5, more than it can have",
        ),
        (
            "Can't kekulize mol.  Unkekulized atoms: 0 9 10",
            "can't kekulize: no double bonds fit the aromatic atoms 1, 10, 11, [nH] may be meant",
        ),
        (
            "ring closure 2 duplicates bond between atom 0 and atom 12 for input: 'C12CC12'",
            "ring closure 2 joins atoms 1 and 13, which are bonded already",
        ),
        ("something else", "something else"),
    ],
)
def test_atoms_are_counted_from_1(said: str, words: str) -> None:
    assert complained(said, "a later one").reason() == words


def test_the_place_of_a_syntax_error_is_shown() -> None:
    told = complained(
        "SMILES Parse Error: syntax error while parsing: CXC",
        "SMILES Parse Error: check for mistakes around position 2:",
    )
    assert told.reason("CXC") == "syntax error at character 2, 'X'"
    told.forget()
    assert told.reason() == "RDKit gives no reason"


def test_what_looks_like_a_smiles_is_called_nothing_else() -> None:
    complaints = complained("syntax error")
    for smiles in (
        "CCO",
        "C[nH]C",
        "[Na+].[Cl-]",
        "C/C=C/C",
        "C%12CC",
        "Clc1ccc(Br)cc1",
        "[13CH4]",
    ):
        assert complaints.reason(smiles) == "syntax error"


def test_odd_characters_are_named() -> None:
    assert odd_character("C[C@H](N)O") == ""
    assert odd_character("C–C") == "'–' (en dash)"
    assert odd_character("C\x00") == "'\\x00' (control character)"


def test_a_long_text_is_cut() -> None:
    assert shown("C" * 80) == "C" * 80
    assert shown("C" * 81) == "C" * 80 + "..."
