"""A table with a defect of every kind: no row is lost, moved or invented, and each has a reason.

`KINDS` states of each kind what becomes of its row; docs/guide/data.md has the same for readers.
"""

import csv
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moleblend.chem.parsing import read_smiles
from moleblend.cli import main as cli
from moleblend.data.dataset import MoleculeDataset
from moleblend.finetuning import run as runs
from moleblend.finetuning import train
from moleblend.finetuning.lightning_module import FineTuning
from moleblend.finetuning.trainer import TrainedModel
from moleblend.prediction.predictor import Predictor
from tests.helpers.molecules import QM9

TINY = [
    *("--from", "scratch", "--epochs", "1", "--split", "random", "--device", "cpu"),
    *("--encoder.width", "16", "--encoder.ffn-width", "16", "--encoder.n-layers", "1"),
    *("--encoder.n-heads", "2", "--encoder.n-kernels", "8", "--encoder.max-atoms", "200"),
    *("--batch-size", "64", "--target", "y", "--forest", "10"),
]
NAMES = ["key", "smiles", "y", "note"]
N_ROWS = 1_000
USED = ("ok", "ok_2d_only")
OWN = math.inf
"""The label is the one that the row has in the truth."""


@dataclass(frozen=True)
class Kind:
    """A defect, and what is expected of its row.

    Attributes:
        name: of the defect.
        smiles: in place of the row's own; so are `label`, `note` and `key`.
        status: of prediction.
        reason: part of the reason, of a row that is not `ok`.
        written: canonical SMILES of what is read; that of `smiles` if empty.
        learnt: label that is learnt, NaN where there is none.
        censoring: 1 or -1 where the label is censored.
        problem: part of what is said of the label's cell.
        line: the row as a csv line, of {key}, {smiles} and {y}, where the structure is the defect.
        cells: what the malformed line gives; empty strings are added.
    """

    name: str
    smiles: str | None = None
    label: str | None = None
    note: str = ""
    key: str | None = None
    status: str = "ok"
    reason: str = ""
    written: str = ""
    learnt: float = OWN
    censoring: int = 0
    problem: str = ""
    line: str = ""
    cells: tuple[str, ...] = ()


def refused(name: str, smiles: str, reason: str) -> Kind:
    return Kind(name, smiles, status="invalid", reason=reason)


def taken(name: str, smiles: str, written: str) -> Kind:
    return Kind(name, smiles, written=written)


def missing(label: str) -> Kind:
    return Kind(f"label {label!r}", label=label, learnt=np.nan)


def bad(label: str, problem: str) -> Kind:
    return Kind(f"label {label!r}", label=label, learnt=np.nan, problem=problem)


def value(label: str, learnt: float, censoring: int = 0) -> Kind:
    return Kind(f"label {label!r}", label=label, learnt=learnt, censoring=censoring)


def malformed(name: str, line: str, reason: str, *cells: str) -> Kind:
    return Kind(
        name, line=line, status="invalid", reason=reason, learnt=np.nan, cells=cells or (line,)
    )


KINDS = [
    refused("empty", "", "the SMILES is empty"),
    refused("blanks", "   ", "the SMILES is empty"),
    refused("nan", "nan", "nan: it marks a missing value"),
    refused("None", "None", "None: it marks a missing value"),
    refused("NA", "N/A", "N/A: it marks a missing value"),
    refused("spreadsheet error", "#REF!", "it is a spreadsheet error"),
    refused("open ring", "C1CCCC", "C1CCCC: unclosed ring"),
    refused("ring on one bond", "C12CC12", "connects atoms 1 and 3, which are already bonded"),
    refused("open bracket", "C[NH2", "unmatched bracket '['"),
    refused("open parenthesis", "CC(C", "unmatched parenthesis '('"),
    refused("closed parenthesis", "CC)C", "unmatched parenthesis ')'"),
    refused("wrong valence", "CC(C)(C)(C)C", "atom 2, C, has a valence of 5"),
    refused("not kekulizable", "c1cccc1", "can't kekulize: no double bonds fit the aromatic atoms"),
    refused("aromatic chain", "c1ccccc1c", "atom 7 is written as aromatic, but is not in a ring"),
    refused("unknown element", "C[Xx]C", "Xx is not an element"),
    refused("capital L", "CCCL", "syntax error at character 4, 'L'"),
    refused("InChI", "InChI=1S/CH4/h1H4", "it is an InChI"),
    refused("InChIKey", "VNWKTOKETHGBQD-UHFFFAOYSA-N", "it is an InChIKey"),
    refused("common name", "aspirin", "aspirin: it looks like a name"),
    refused("name of two words", "acetic acid", "contains a space, expected a single SMILES"),
    refused("CAS number", "64-17-5", "it looks like a CAS number"),
    refused("number", "12.5", "it is a number"),
    refused("sum formula", "C2H6O", "it looks like a molecular formula"),
    refused("reaction", "CCO>>CC=O", "it is a reaction, expected one molecule"),
    refused("R group", "[R1]CC", "an R group represents many molecules"),
    refused("SMARTS", "[#6]-[OX2H]", "it looks like SMARTS"),
    refused(
        "full-width letters", "ＣＣＯ", "the character 'Ｃ' (fullwidth latin capital letter c)"
    ),
    refused("accent", "CCé", "the character 'é' (latin small letter e with acute)"),
    refused("dash", "CC–O", "the character '–' (en dash)"),
    refused("zero-width blank", "CCO\u200b", "(zero width space)"),
    refused("NUL byte", "CCO\x00", "(control character)"),
    refused("no-break space inside", "CC\u00a0O", "contains a space"),
    refused("line break", "CC\nO", "contains a space"),
    refused("SMILES and name", "CCO ethanol", "contains a space"),
    refused("two SMILES", "CCO,CC", "syntax error at character 4, ','"),
    refused("20,001 characters", "C" * 20_001, "has 20,001 characters, at most 20,000 are allowed"),
    Kind("too large", "C" * 201, status="too_large", reason="201 atoms, the model takes at most 2"),
    taken("no-break space at the end", "CCO\u00a0", "CCO"),
    taken("blanks around", "  OCC ", "CCO"),
    refused("wildcard atom", "*CC", "represents many molecules: an atom is `*`"),
    taken("salt", "CC(=O)[O-].[Na+]", "CC(=O)[O-].[Na+]"),
    taken("metal", "[Fe]", "[Fe]"),
    taken("metal complex", "Cl[Pt](Cl)(<-N)<-N", "[NH3]->[Pt](<-[NH3])([Cl])[Cl]"),
    taken("single atom", "C", "C"),
    taken("hydrogen alone", "[H][H]", "[H][H]"),
    taken("isotopes", "[13CH3]O", "[13CH3]O"),
    taken("contradicting stereo", "F/C(\\Cl)=C/F", "FC=C(F)Cl"),
    taken("explicit hydrogens", "[H]C([H])([H])O[H]", "CO"),
    taken("duplicate, other label", "CCOC(C)=O", "CCOC(C)=O"),
    taken("duplicate, other order", "CC(=O)OCC", "CCOC(C)=O"),
    *map(missing, ("", "NA", "n.d.", "-", "#DIV/0!", "None", "?")),
    value(">10000", 10_000, 1),
    value("<0.1", 0.1, -1),
    value("≥ 5", 5, 1),
    value("~3", 3),
    value("\N{MINUS SIGN}2", -2),
    value("１２", 12),
    value("7.5  ", 7.5),
    value("1.5E+02", 150),
    bad("1,5", "'1,5' has a comma, expected a decimal point"),
    bad("12 mg", "'12 mg' has text after the number, expected only a number"),
    bad("3±1", "'3±1' has text after the number"),
    bad("inf", "'inf' is infinite, expected a finite number"),
    bad("1e400", "'1e400' is outside the range of a 64-bit float"),
    bad("=1+1", "'=1+1' is a formula, expected its value"),
    bad("TRUE", "'TRUE' is not a number"),
    bad("high", "'high' is not a number"),
    bad("2024-01-05", "'2024-01-05' is a date, expected a number"),
    bad("1\x002", "has text after the number"),
    bad("1\n2", "has text after the number"),
    replace(refused("both", "C1CC", "unclosed ring"), label="1,5", learnt=np.nan, problem="comma"),
    Kind("no name", key=""),
    Kind("name of blanks", key="  "),
    Kind("name of another row", key="M0"),
    Kind("name with comma and quotes", key='a, "b"'),
    Kind("comma in another cell", note="a, b"),
    Kind("line breaks in another cell", note="a\nb\r\nc"),
    Kind("NUL in another cell", note="a\x00b"),
    Kind("micro sign", note="µM"),
    malformed("too few cells", "{key},{smiles}", "has 2 cells, the header has 4", "{key}", "CC"),
    malformed("one cell", "{key}", "the row has 1 cell, the header has 4", "{key}"),
    malformed(
        *("too many cells", "{key},CC,1,,2", "has 5 cells, the header has 4"),
        *("{key}", "CC", "1", ""),
    ),
    malformed("quote that is not closed", '{key},"CC,1,', "cannot be read: a quote"),
    malformed("letters after a quote", '{key},CC,1,"a"b', "cannot be read: a quote"),
    malformed("last row: a quote", '{key},CC,1,"', "cannot be read: a quote is never closed"),
]


@dataclass(frozen=True)
class Planted:
    """Row of the table: its cells as they shall come back, its kind, and its true label."""

    cells: tuple[str, ...]
    kind: Kind
    label: float
    line: str = ""


def planted(kinds: list[Kind], n_rows: int = N_ROWS) -> list[Planted]:
    """Spread the kinds over the table; the last one is in the last row."""
    smiles = pq.read_table(QM9).column("smiles").to_pylist()[:n_rows]
    step = (n_rows - 4) // len(kinds)
    places = {3 + step * k: kind for k, kind in enumerate(kinds[:-1])} | {n_rows - 1: kinds[-1]}
    rows = []
    for k in range(n_rows):
        kind = places.get(k, Kind("none"))
        label = (k * 7 % N_ROWS) + 0.25  # none like that of its neighbours
        key = f"M{k}" if kind.key is None else kind.key
        own = {"key": key, "smiles": "CC", "y": label}
        cells = (
            key,
            smiles[k] if kind.smiles is None else kind.smiles,
            str(label) if kind.label is None else kind.label,
            kind.note,
        )
        line = kind.line.format(**own)
        if line:
            cells = tuple(cell.format(**own) for cell in kind.cells)
            cells = (*cells, *[""] * (len(NAMES) - len(cells)))
        rows.append(Planted(cells, kind, label if kind.learnt == OWN else kind.learnt, line))
    return rows


def text_of(rows: list[Planted], delimiter: str) -> bytes:
    """Write a byte-order mark, CRLF and LF, blank lines, and one byte of Latin-1."""
    lines = ["\ufeff" + delimiter.join(NAMES) + "\r\n"]
    for k, row in enumerate(rows):
        out = io.StringIO()
        csv.writer(out, delimiter=delimiter).writerow(row.cells)
        line = out.getvalue()
        if row.line:
            line = row.line.replace(",", delimiter) + "\r\n"
        lines.append(line.replace("\r\n", "\n") if k % 2 and not row.kind.note else line)
        lines += ["\r\n", "\n"] * (k % 100 == 50)
    return "".join(lines).encode().replace("µM".encode(), b"\xb5M")


def files(folder: Path) -> dict[str, tuple[Path, list[Planted]]]:
    """The table in each format, with the kinds that it can hold."""
    rows = planted(KINDS)
    (folder / "defects.csv").write_bytes(text_of(rows, ","))
    # In a file with tabs a single quote is part of its cell.
    of_tabs = planted([kind for kind in KINDS if "a quote" not in kind.reason])
    (folder / "defects.tsv").write_bytes(text_of(of_tabs, "\t"))
    tabbed = [
        replace(row, cells=(row.cells[0].replace(",", "\t"), "", "", ""))
        if row.kind.line and row.kind.cells == (row.kind.line,)  # the whole line is one cell
        else row
        for row in of_tabs
    ]
    typed = planted([kind for kind in KINDS if not kind.line])
    columns = {name: pa.array([row.cells[k] for row in typed]) for k, name in enumerate(NAMES)}
    pq.write_table(pa.table(columns), folder / "defects.parquet")
    return {
        ".csv": (folder / "defects.csv", rows),
        ".tsv": (folder / "defects.tsv", tabbed),
        ".parquet": (folder / "defects.parquet", typed),
    }


@dataclass(frozen=True)
class Seen:
    """The training and validation sets of each model, and the results."""

    sets: list[MoleculeDataset]
    results: list[train.TrainResult]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen = Seen([], [])
    fit, original_train = runs.fit, train.train

    def watched_fit(module: FineTuning, validation: MoleculeDataset, *others: Any) -> TrainedModel:
        seen.sets.extend([module.training_set, validation])
        return fit(module, validation, *others)

    def watched_train(*arguments: Any, **named: Any) -> train.TrainResult:
        seen.results.append(original_train(*arguments, **named))
        return seen.results[-1]

    monkeypatch.setattr(runs, "fit", watched_fit)
    monkeypatch.setattr(train, "train", watched_train)
    return seen


def run(*arguments: object) -> None:
    assert cli.main([str(argument) for argument in arguments]) == 0


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a csv or tsv file as any other program would."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def is_usable(row: Planted) -> bool:
    return row.kind.status in USED and not math.isnan(row.label)


def check_training(rows: list[Planted], out: Path, seen: Seen) -> None:
    """Compare what train says of each row, and the labels it used, with the truth."""
    told = rows_of(out / "rows.csv")
    assert [int(row["row"]) for row in told] == list(range(1, len(rows) + 1))
    for row, expected in zip(told, rows, strict=True):
        kind = expected.kind
        status = kind.status
        if status in USED and math.isnan(expected.label):
            status = "no_label"
        assert (row["status"], kind.reason in row["reason"]) == (status, True), (kind.name, row)
        assert bool(row["reason"]) == (status != "ok")
        assert bool(row["labels"]) == bool(kind.problem)
        assert kind.problem in row["labels"], (kind.name, row)
        assert bool(row["set"]) == is_usable(expected), (kind.name, row)

    for dataset in seen.sets:
        for molecule, label, censoring in zip(
            dataset.molecules, dataset.labels[:, 0], dataset.censoring[:, 0], strict=True
        ):
            check_label(rows, molecule.id, molecule.smiles, label, censoring)
    (result,) = seen.results
    predictions = result.predictions
    for row, label, censoring in zip(
        result.table.split.test, predictions.labels, predictions.censoring, strict=True
    ):
        check_label(rows, f"row {row + 1}", "", label[0], censoring[0])


def check_label(rows: list[Planted], name: str, smiles: str, label: float, censoring: int) -> None:
    row = rows[int(name.removeprefix("row ")) - 1]
    assert is_usable(row)
    assert (label, censoring) == (row.label, row.kind.censoring), row
    if smiles:
        assert smiles == (row.kind.written or read_smiles(row.cells[1]).smiles), row


def check_output(rows: list[Planted], out: list[dict[str, Any]]) -> None:
    """Compare what predict and embed say of each row with the truth."""
    assert [tuple(row[name] for name in NAMES) for row in out] == [row.cells for row in rows]
    for row, expected in zip(out, rows, strict=True):
        kind = expected.kind
        assert row["status"] == kind.status, (kind.name, row)
        assert kind.reason in row["reason"], (kind.name, row)
        assert bool(row["reason"]) == (kind.status != "ok")
        assert len(row["reason"]) < 200
        assert "\n" not in row["reason"]


def check_predictions(rows: list[Planted], model: Path, predicted: list[float | None]) -> None:
    """Compare with those of each molecule alone, written in another way."""
    used = [k for k, row in enumerate(rows) if row.kind.status == "ok"]
    assert [k for k, value in enumerate(predicted) if value is not None] == used
    written = [rows[k].kind.written or read_smiles(rows[k].cells[1]).smiles for k in used]
    alone = Predictor(model).predict(written).column("y_pred").to_numpy()
    np.testing.assert_allclose([predicted[k] for k in used], alone, rtol=1e-4, atol=1e-3)
    assert len(set(np.round(alone, 3))) > len(used) / 2


def floats(cells: list[str]) -> list[float | None]:
    return [float(cell) if cell else None for cell in cells]


def test_a_csv_table_with_a_defect_of_every_kind(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, rows = files(tmp_path)[".csv"]
    assert len(KINDS) == len({kind.name for kind in KINDS}) >= 60
    run("train", path, *TINY, "--folds", "3", "--out", "run")
    check_training(rows, tmp_path / "run", seen)
    assert len(seen.results[0].table.split.test) == sum(map(is_usable, rows))
    model = tmp_path / "run" / "model.safetensors"
    run("predict", model, path, "predicted.csv")
    out = rows_of(tmp_path / "predicted.csv")
    check_output(rows, out)
    check_predictions(rows, model, floats([row["y_pred"] for row in out]))
    run("embed", model, path, "embedded.csv")
    out = rows_of(tmp_path / "embedded.csv")
    check_output(rows, out)
    assert [bool(row["e0"]) for row in out] == [row.kind.status == "ok" for row in rows]


@pytest.mark.parametrize("ending", [".tsv", ".parquet"])
def test_the_same_in_other_formats(
    ending: str, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, rows = files(tmp_path)[ending]
    run("train", path, *TINY, "--out", "run")
    check_training(rows, tmp_path / "run", seen)
    model = tmp_path / "run" / "model.safetensors"
    for command, out in (("predict", f"predicted{ending}"), ("embed", f"embedded{ending}")):
        run(command, model, path, out)
    if ending == ".tsv":
        out = rows_of(tmp_path / "predicted.tsv")
        predicted = floats([row["y_pred"] for row in out])
        embedded = rows_of(tmp_path / "embedded.tsv")
        has_vector = [bool(row["e0"]) for row in embedded]
    else:
        out = pq.read_table(tmp_path / "predicted.parquet").to_pylist()
        predicted = [row["y_pred"] for row in out]
        embedded = pq.read_table(tmp_path / "embedded.parquet").to_pylist()
        has_vector = [row["embedding"] is not None for row in embedded]
    check_output(rows, out)
    check_output(rows, embedded)
    check_predictions(rows, model, predicted)
    assert has_vector == [row.kind.status == "ok" for row in rows]


def test_rows_without_a_geometry_beside_rows_with_one(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    strained = Kind(
        "no geometry", "C1C[C@@H]2C[C@@H]1C2", status="ok_2d_only", reason="finds no geometry"
    )
    rows = planted([strained, *(kind for kind in KINDS if not kind.line)], 200)
    (tmp_path / "defects.csv").write_bytes(text_of(rows, ","))
    run("train", "defects.csv", *TINY, "--conformers", "1", "--out", "run")
    check_training(rows, tmp_path / "run", seen)
    learnt = [molecule for dataset in seen.sets for molecule in dataset.molecules]
    assert {molecule.n_conformers for molecule in learnt} <= {0, 1}
    assert sum(molecule.n_conformers for molecule in learnt) > 50
    run("predict", tmp_path / "run" / "model.safetensors", "defects.csv", "predicted.csv")
    check_output(rows, rows_of(tmp_path / "predicted.csv"))
