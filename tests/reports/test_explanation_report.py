import base64
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest
import torch

from moleblend.data.formats import read_table
from moleblend.data.targets import Target
from moleblend.evaluation.applicability_domain import BORDERLINE, DomainScores
from moleblend.model import checkpoint
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import Model, ModelConfig
from moleblend.prediction.explanation import Contributions, explain
from moleblend.prediction.predictor import Predictor
from moleblend.reports.explanation_report import (
    Explained,
    write_atom_table,
    write_explanation_report,
)
from tests.helpers.html import read_page

TINY = EncoderConfig(width=16, ffn_width=16, n_layers=1, n_heads=2, n_kernels=8, max_atoms=110)
TARGETS = (
    Target("log<S>", "regression", "log mol/L", mean=-3.0, scale=2.0),
    Target("toxic", "binary"),
)

Explain = Callable[[Path], Explained]


@pytest.fixture
def explained(tmp_path: Path) -> Explain:
    def run(source: Path) -> Explained:
        torch.manual_seed(0)
        model = Model(ModelConfig(encoder=TINY, heads=None, targets=TARGETS))
        for parameter in model.parameters():
            parameter.data.normal_(std=0.5)
        path = tmp_path / "model.safetensors"
        checkpoint.save(model, path, checkpoint.Card(trained_by="train", views="both"))
        predictor, table = Predictor(path, device="cpu"), read_table(source)
        return Explained(path, table, TARGETS, explain(predictor, table))

    return run


def record(atoms: list[tuple[str, float, float, float]], bonds: list[tuple[int, int]]) -> str:
    """Write a record of an SDF."""
    lines = ["", "", "", f"{len(atoms):3}{len(bonds):3}" + "  0" * 8 + "999 V2000"]
    lines += [f"{x:10.4f}{y:10.4f}{z:10.4f} {e:3}" + " 0" * 12 for e, x, y, z in atoms]
    lines += [f"{i:3}{j:3}  1  0" for i, j in bonds]
    return "\n".join([*lines, "M  END", "$$$$", ""])


def drawings(element: ET.Element) -> list[str]:
    sources = [image.attrib["src"].split(",", 1)[1] for image in element.iter("img")]
    return [base64.b64decode(source).decode() for source in sources]


def words(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def test_a_card_for_each_row_in_order(explained: Explain, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    long = "C" * 100
    source.write_text(f"smiles\nCC(=O)O\nC1CC\n{long}\n{long * 2}\n[Na+].[Cl-]\nC\n")
    page = read_page(write_explanation_report(explained(source), tmp_path / "out.html"))
    cards = [section for section in page.iter("section") if section.get("class") == "panel card"]
    assert [words(card.find("h2")) for card in cards] == [
        f"row {k} (line {k + 1})" for k in range(1, 7)
    ]
    assert [len(drawings(card)) for card in cards] == [2, 0, 2, 0, 2, 2]
    assert "invalid: " in words(cards[1])
    assert "too_large: 200 atoms" in words(cards[3])
    assert "ok_2d_only: no geometry in the input" in words(cards[0])
    assert "in.csv Rows 6 Targets log<S> (log mol/L), toxic (log-odds)" in words(page)
    for card in cards:
        for svg in drawings(card):
            ET.fromstring(svg)


def paracetamol(explained: Explain, folder: Path) -> tuple[Explained, Contributions, ET.Element]:
    """Explain one molecule; give the record, its contributions, and the report."""
    source = folder / "in.csv"
    source.write_text("smiles\nCC(=O)Nc1ccc(O)cc1\n")
    explained_rows = explained(source)
    contributions = explained_rows.explanations[0].contributions
    assert contributions is not None
    return (
        explained_rows,
        contributions,
        read_page(write_explanation_report(explained_rows, folder / "out.html")),
    )


def test_prediction_and_bars_have_the_contributions(explained: Explain, tmp_path: Path) -> None:
    explained_rows, contributions, page = paracetamol(explained, tmp_path)
    heads = [words(head) for head in page.iter("h3")]
    assert heads[0] == f"log<S>: {contributions.prediction[0]:#.3g} log mol/L".replace("-", "−")
    assert heads[1].startswith(f"toxic: probability {contributions.prediction[1]:.3f} (log-odds ")
    bars = [svg for svg in page.iter("svg") if svg.get("class") == "bars"]
    title = words(bars[0].find("title"))
    assert title.startswith("training mean −3.00, atoms, unrelated ")
    for name, value in zip(("bond graph", "geometry"), contributions.views[:, 0], strict=True):
        sign = "+" if value > 0 else ""
        text = f"{value:#.3g}".replace("-", "−") if value else "0"
        assert f"{name} {sign}{text}" in title
    assert words(bars[1].find("title")).startswith("even odds 0, ")
    best = int(contributions.atoms[:, 0].argmax())
    molecule = explained_rows.explanations[0].row.molecule
    assert molecule is not None
    name = f"{'_____CNOF'[molecule.atoms[best, 0]]}{molecule.source_atoms[best] + 1}"
    assert f"Raise the prediction: {name} +" in words(page)


def test_the_strongest_atoms_have_the_strongest_colours(explained: Explain, tmp_path: Path) -> None:
    _, contributions, page = paracetamol(explained, tmp_path)
    spots = re.findall(r"<ellipse[^>]*fill:#(\w\w)(\w\w)(\w\w)", drawings(page)[0])
    values = contributions.atoms[:, 0]
    for (red, _, blue), value in zip(spots, values, strict=True):
        assert (int(red, 16) > int(blue, 16)) == (value > 0)
    least = [int(red, 16) + int(green, 16) + int(blue, 16) for red, green, blue in spots]
    assert abs(values[least.index(max(least))]) == pytest.approx(abs(values).min())


def test_atoms_have_the_numbers_of_the_input(explained: Explain, tmp_path: Path) -> None:
    """Of an SDF with hydrogens and a counter-ion, among rows without a molecule."""
    source = tmp_path / "in.sdf"
    # H, O, C, C and a chloride-like Cl apart from them
    atoms = [
        ("H", -0.9, 0.0, 0.1),
        ("O", 0.0, 0.0, 0.2),
        ("C", 1.4, 0.2, 0.1),
        ("C", 2.9, 0.0, 0.3),
    ]
    salt = record([*atoms, ("Cl", 9.0, 0.0, 0.1)], [(1, 2), (2, 3), (3, 4)])
    source.write_text(record([("C", 0.0, 0.0, 0.0)], [(1, 7)]) + salt)
    explained_rows = explained(source)
    molecule, contributions = (
        explained_rows.explanations[1].row.molecule,
        explained_rows.explanations[1].contributions,
    )
    assert molecule is not None
    assert contributions is not None
    table = pyarrow.csv.read_csv(write_atom_table(explained_rows, tmp_path / "out.csv"))
    assert table.column_names[:5] == ["row", "status", "reason", "atom", "element"]
    assert table.column_names[5:] == ["log<S>_contribution", "toxic_contribution"]
    assert table.column("row").to_pylist() == [1, 2, 2, 2, 2]
    assert table.column("status").to_pylist() == ["invalid", "ok", "ok", "ok", "ok"]
    assert table.column("atom").to_pylist() == [None, 2, 3, 4, 5]
    assert table.column("element").to_pylist()[1:] == ["O", "C", "C", "Cl"]
    values = table.column("log<S>_contribution").to_pylist()
    assert values[0] is None
    for number, value in zip((2, 3, 4, 5), values[1:], strict=True):
        place = molecule.source_atoms.tolist().index(number - 1)
        assert value == pytest.approx(contributions.atoms[place, 0])
    text = words(read_page(write_explanation_report(explained_rows, tmp_path / "out.html")))
    assert not re.search(r"\bH1\b", text)


def test_a_file_without_rows_or_without_molecules(explained: Explain, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    for text, n in (("smiles\n", 0), ("smiles\nC1CC\n", 1)):
        source.write_text(text)
        explained_rows = explained(source)
        page = read_page(write_explanation_report(explained_rows, tmp_path / "out.html"))
        assert len(list(page.iter("section"))) == n
        assert (
            pyarrow.csv.read_csv(write_atom_table(explained_rows, tmp_path / "out.csv")).num_rows
            == n
        )


def test_each_prediction_has_the_nearest_training_molecule(
    explained: Explain, tmp_path: Path
) -> None:
    source = tmp_path / "in.csv"
    source.write_text("smiles\nCCO\nC1CC\n")
    explained_rows = explained(source)
    scores = DomainScores(
        [BORDERLINE, ""], np.zeros(2), np.array([0.5, np.nan]), np.array([7, -1]), ["CCN", ""]
    )
    page = read_page(
        write_explanation_report(replace(explained_rows, scores=scores), tmp_path / "out.html")
    )
    first, second = (s for s in page.iter("section") if s.get("class") == "panel card")
    text = f"Nearest training molecule: CCN, similarity 0.50. Applicability domain: {BORDERLINE}."
    assert words(first).count(text) == len(TARGETS)
    assert len(drawings(first)) == 2 * len(TARGETS)
    assert "Nearest" not in words(second)
    rows = replace(scores, smiles=["", ""])
    page = read_page(
        write_explanation_report(replace(explained_rows, scores=rows), tmp_path / "out.html")
    )
    assert "Nearest training molecule: row 8, similarity" in words(page)
