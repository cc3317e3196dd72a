import pytest

from moleblend.data.labels.column_names import is_logarithm, may_be_negative_log, unit_of, words_of


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("pIC50", "-log10(mol/L)"),
        ("pKi", "-log10(mol/L)"),
        ("solubility (mg/L)", "mg/L"),
        ("IC50 [nM]", "nM"),
        ("IC50_uM", "uM"),
        ("measured log solubility in mols per litre", "log mols per litre"),
        ("inhibition %", "%"),
        ("IC50", ""),
        ("gap", ""),
        ("spike", ""),
    ],
)
def test_units_are_read_from_the_column_name(name: str, unit: str) -> None:
    assert unit_of(name) == unit


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Standard Relation", ["standard", "relation"]),
        ("IC50_relation", ["ic", "50", "relation"]),
        ("heavyAtomCount", ["heavy", "atom", "count"]),
        ("MW", ["mw"]),
        ("***", []),
    ],
)
def test_names_are_split_into_words(name: str, words: list[str]) -> None:
    assert words_of(name) == words


@pytest.mark.parametrize(
    ("name", "may_be"),
    [
        *((name, True) for name in ("pic50", "PIC50", "pchembl_value", "pki", "NegLogKi")),
        *((name, True) for name in ("Neg Log IC50", "-Log10(IC50)", "log(1/C)")),
        ("\N{MINUS SIGN}log IC50", True),
        *(("pIC50", True), ("pActivity", True), ("target pKi", True), ("neg log Ki", True)),
        *(("-log10 IC50", True), ("IC50", False), ("logP", False), ("potency", False)),
        *(("inhibition %", False), ("SampleValue", False), ("negative", False)),
    ],
)
def test_negative_logarithms_are_recognised_by_name(name: str, may_be: bool) -> None:
    assert may_be_negative_log(name) == may_be


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *(("logS", True), ("measuredLogD", True), ("log10_IC50", True), ("ln K", True)),
        *(("catalogue", False), ("IC50", False), ("biological", False)),
    ],
)
def test_logarithms_are_recognised_by_name(name: str, *, is_one: bool) -> None:
    assert is_logarithm(name) == is_one
