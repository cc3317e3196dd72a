import logging

import pytest

from moleblend.chem.parse_errors import RdkitErrorCollector, invalid_character, shown


def collect(*texts: str) -> RdkitErrorCollector:
    collector = RdkitErrorCollector()
    collector.clear()
    for text in texts:
        collector.emit(logging.makeLogRecord({"levelno": logging.ERROR, "msg": text}))
    return collector


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "Explicit valence for atom # 1 C, 5, is greater than permitted",
            "atom 2, C, has a valence of 5, more than allowed",
        ),
        (
            "Can't kekulize mol.  Unkekulized atoms: 0 9 10",
            "can't kekulize: no double bonds fit the aromatic atoms 1, 10, 11; [nH] may be missing",
        ),
        (
            "ring closure 2 duplicates bond between atom 0 and atom 12 for input: 'C12CC12'",
            "ring closure 2 connects atoms 1 and 13, which are already bonded",
        ),
        ("something else", "something else"),
    ],
)
def test_atoms_are_counted_from_1(said: str, words: str) -> None:
    assert collect(said, "a later one").reason() == words


def test_the_place_of_a_syntax_error_is_shown() -> None:
    collector = collect(
        "SMILES Parse Error: syntax error while parsing: CXC",
        "SMILES Parse Error: check for mistakes around position 2:",
    )
    assert collector.reason("CXC") == "syntax error at character 2, 'X'"
    collector.clear()
    assert collector.reason() == "RDKit gives no reason"


def test_what_looks_like_a_smiles_is_called_nothing_else() -> None:
    collector = collect("syntax error")
    for smiles in (
        "CCO",
        "C[nH]C",
        "[Na+].[Cl-]",
        "C/C=C/C",
        "C%12CC",
        "Clc1ccc(Br)cc1",
        "[13CH4]",
    ):
        assert collector.reason(smiles) == "syntax error"


def test_invalid_characters_are_named() -> None:
    assert invalid_character("C[C@H](N)O") == ""
    assert invalid_character("C–C") == "'–' (en dash)"
    assert invalid_character("C\x00") == "'\\x00' (control character)"


def test_a_long_text_is_cut() -> None:
    assert shown("C" * 80) == "C" * 80
    assert shown("C" * 81) == "C" * 80 + "..."
