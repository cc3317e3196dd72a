import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from moleblend.chem.molecule import MoleculeError
from moleblend.data.formats import read_table, write_table
from moleblend.data.targets import Target
from moleblend.evaluation.applicability_domain import ApplicabilityDomain
from moleblend.evaluation.uncertainty import Uncertainty
from moleblend.model import checkpoint
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import Model, ModelConfig
from moleblend.prediction import screening
from moleblend.prediction.predictor import Predictor
from moleblend.prediction.screening import FileAccount, embed_file, predict_file, write_embeddings

TINY = EncoderConfig(width=16, ffn_width=16, n_layers=1, n_heads=2, n_kernels=8, max_atoms=40)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = Model(
        ModelConfig(encoder=TINY, heads=None, targets=(Target("gap", "regression", "eV"),))
    )
    for parameter in model.parameters():  # larger than they start, so that all inputs matter
        parameter.data.normal_(std=0.3)
    checkpoint.save(
        model, tmp_path / "model.safetensors", checkpoint.Card(trained_by="train", views="2d")
    )
    return tmp_path / "model.safetensors"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """45 rows in five pieces, one of which has no molecule, and a row that is too large."""
    monkeypatch.setattr(screening, "_ROWS_IN_A_PIECE", 10)
    smiles = [("C" * (k % 12 + 1)) + "ON"[k % 2] for k in range(45)]
    smiles[10:20] = ["nonsense"] * 10
    smiles[44] = "C" * 41
    path = tmp_path / "in.csv"
    path.write_text("smiles,id\n" + "".join(f"{text},m{k}\n" for k, text in enumerate(smiles)))
    return path


def assert_near(found: pa.Table, expected: pa.Table) -> None:
    """The same rows, and the same numbers but for rounding."""
    assert found.column_names == expected.column_names
    assert found.num_rows == expected.num_rows
    for name in expected.column_names:
        ours, theirs = found.column(name), expected.column(name)
        assert ours.null_count == theirs.null_count
        if pa.types.is_floating(theirs.type):
            np.testing.assert_allclose(ours.to_numpy(), theirs.to_numpy(), atol=1e-4)
        else:
            assert ours.to_pylist() == theirs.to_pylist()


@pytest.mark.parametrize("options", [{}, {"n_processes": 2}, {"engine": "ray", "n_processes": 2}])
def test_a_file_in_pieces_is_the_file(
    model: Path, source: Path, tmp_path: Path, options: dict, request: pytest.FixtureRequest
) -> None:
    if "engine" in options:
        request.getfixturevalue("ray_here")
    seen = []
    account = predict_file(
        model, source, tmp_path / "out.parquet", **options, on_progress=lambda *n: seen.append(n)
    )
    assert account == FileAccount(45, {"ok": 34, "invalid": 10, "too_large": 1}, ())
    assert_near(pq.read_table(tmp_path / "out.parquet"), Predictor(model).predict(source))
    assert [rows for rows, _ in seen] == [10, 20, 30, 40, 45]
    assert seen[-1][1] == 1.0


@pytest.mark.parametrize("errors", ["keep", "skip"])
def test_vectors_in_pieces_are_those_of_the_file(
    model: Path, source: Path, tmp_path: Path, errors: str
) -> None:
    table, vectors = Predictor(model).embed_table(source, errors=errors)
    for ending in ("npy", "parquet", "csv"):
        account = embed_file(model, source, tmp_path / f"out.{ending}", errors=errors)
        assert account.n_rows == len(table) == (45 if errors == "keep" else 34)
    found = np.load(tmp_path / "out.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, vectors, atol=1e-4)
    rows = read_table(tmp_path / "out.npy.rows.csv").columns
    assert rows.to_pydict() == table.to_pydict()
    parquet = pq.read_table(tmp_path / "out.parquet")
    assert parquet.select(table.column_names).equals(table)
    lists = [
        np.full(16, np.nan) if row is None else row for row in parquet["embedding"].to_pylist()
    ]
    np.testing.assert_array_equal(np.array(lists, np.float32), found)
    text = pa.csv.read_csv(tmp_path / "out.csv")
    assert text.num_rows == len(table)
    np.testing.assert_allclose(text.column("e3").to_numpy(), vectors[:, 3], atol=1e-4)


def test_every_kind_of_file_comes_in_pieces(model: Path, source: Path, tmp_path: Path) -> None:
    write_table(read_table(source).columns, tmp_path / "in.parquet")
    smi = "".join(
        f"{row['smiles']} {row['id']}\n" for row in read_table(source).columns.to_pylist()
    )
    (tmp_path / "in.smi").write_text(smi)
    for name in ("in.parquet", "in.smi"):
        predict_file(model, tmp_path / name, tmp_path / "out.csv")
        expected = Predictor(model).predict(tmp_path / name)
        assert read_table(tmp_path / "out.csv").columns["gap_pred"].null_count == 0
        found = pa.csv.read_csv(tmp_path / "out.csv")
        assert found["status"].to_pylist() == expected["status"].to_pylist()
        np.testing.assert_allclose(
            found["gap_pred"].to_numpy(), expected["gap_pred"].to_numpy(), atol=1e-4
        )


def test_nothing_is_written_if_a_row_must_not_be_wrong(
    model: Path, source: Path, tmp_path: Path
) -> None:
    for out in ("out.csv", "out.parquet"):
        with pytest.raises(MoleculeError, match=r"row 11 \(line 12\): not a valid SMILES"):
            predict_file(model, source, tmp_path / out, errors="raise")
    with pytest.raises(MoleculeError):
        embed_file(model, source, tmp_path / "out.npy", errors="raise")
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "model.safetensors"}


def test_notes_and_no_rows(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes("smiles,name\nC,Müller\n".encode("latin-1"))
    (note,) = predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv").notes
    assert "Latin-1" in note
    (tmp_path / "in.csv").write_text("smiles,name\n")
    assert embed_file(model, tmp_path / "in.csv", tmp_path / "out.npy") == FileAccount(0, {}, ())
    assert np.load(tmp_path / "out.npy").shape == (0, 16)


def test_embeddings_in_every_kind_of_file(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("smiles,id\nCCO,a\nnonsense,b\nCC,c\n")
    table, vectors = Predictor(model).embed_table(source)
    assert table.column_names == ["smiles", "id", "status", "reason"]
    for ending in ("npy", "parquet", "csv"):
        write_embeddings([(table, vectors)], tmp_path / "new" / f"out.{ending}")
    out = tmp_path / "new"
    np.testing.assert_array_equal(np.load(out / "out.npy"), vectors)
    rows = pa.csv.read_csv(out / "out.npy.rows.csv")
    assert rows.column("status").to_pylist() == ["ok", "invalid", "ok"]
    parquet = pq.read_table(out / "out.parquet")
    lists = parquet.column("embedding").to_pylist()
    assert lists[1] is None
    np.testing.assert_array_equal(np.array(lists[2], np.float32), vectors[2])
    text = pa.csv.read_csv(out / "out.csv")
    assert text.column_names[4:] == [f"e{k}" for k in range(16)]
    assert text.column("e3").to_pylist() == [
        pytest.approx(float(vectors[0, 3])),
        None,
        pytest.approx(float(vectors[2, 3])),
    ]


def test_embeddings_do_not_write_over_columns(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("smiles,e1,embedding\nCCO,a,b\n")
    table, vectors = Predictor(model).embed_table(source)
    for ending, name in (("csv", "e1"), ("parquet", "embedding")):
        with pytest.raises(ValueError, match=f"the input already has a column '{name}'"):
            write_embeddings([(table, vectors)], tmp_path / f"out.{ending}")
    with pytest.raises(ValueError, match=r"got the ending \.txt, expected "):
        write_embeddings([(table.select(["smiles"]), vectors)], tmp_path / "out.txt")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def script(model: Path, source: Path, out: Path, *, resume: bool, command: str) -> list[str]:
    program = (
        "import sys, time; from moleblend.prediction import screening; "
        "screening._ROWS_IN_A_PIECE = 10; "
        f"screening.{command}_file({str(model)!r}, {str(source)!r}, {str(out)!r}, resume={resume}, "
        "on_progress=lambda *_: time.sleep(0.2))"
    )
    return [sys.executable, "-c", program]


@pytest.mark.parametrize(("command", "ending"), [("predict", "csv"), ("embed", "npy")])
def test_killed_and_resumed_is_unbroken(
    model: Path, source: Path, tmp_path: Path, command: str, ending: str
) -> None:
    out, whole = tmp_path / f"out.{ending}", tmp_path / f"whole.{ending}"
    parts = tmp_path / f".out.{ending}.parts"
    with subprocess.Popen(script(model, source, out, resume=False, command=command)) as run:
        while len(list(parts.glob("shard-*.arrow"))) < 2:
            assert run.poll() is None
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
    n_left = len(list(parts.glob("shard-*.arrow")))
    assert 2 <= n_left < 5
    assert not out.exists()
    answer = predict_file if command == "predict" else embed_file
    with pytest.raises(ValueError, match="contains an unfinished run: continue it with --resume"):
        answer(model, source, out)
    with pytest.raises(ValueError, match=r"cannot resume the run, .* it was started with: errors"):
        answer(model, source, out, resume=True, errors="skip")
    account = answer(model, source, out, resume=True)
    assert account.n_resumed == 10 * n_left
    assert answer(model, source, whole).statuses == account.statuses
    assert out.read_bytes() == whole.read_bytes()
    assert not parts.exists()
    with pytest.raises(ValueError, match="there is no unfinished run to resume"):
        answer(model, source, out, resume=True)


def test_what_cannot_be_written_is_refused_before_the_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "_ROWS_IN_A_PIECE", 1)
    source = tmp_path / "in.csv"
    source.write_text("smiles,e1\n" + "C,1\n" * 5)
    seen: list[int] = []
    with pytest.raises(ValueError, match="already has a column 'e1'"):
        embed_file(model, source, tmp_path / "o.csv", on_progress=lambda n, _: seen.append(n))
    with pytest.raises(ValueError, match=r"got the ending \.txt, expected "):
        predict_file(model, source, tmp_path / "o.txt", on_progress=lambda n, _: seen.append(n))
    assert seen == []
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "model.safetensors"}


def test_how_sure_it_is_comes_with_every_piece(model: Path, source: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label, predicted = rng.normal(size=(2, 40, 1))
    target, smiles = Target("gap", "regression", "eV"), ["CCO", "CCN", "CC"]
    known = Uncertainty.fit((target,), predicted, None, label, np.zeros((40, 1), np.int8))
    vectors = Predictor(model).embed(smiles)
    domain = ApplicabilityDomain.fit(vectors, smiles, np.arange(3), vectors, smiles)
    card = checkpoint.Card(trained_by="train", views="2d")
    checkpoint.save(checkpoint.load(model), model, card, uncertainty=known, domain=domain)
    predict_file(model, source, tmp_path / "out.parquet", confidence=0.5)
    found = pq.read_table(tmp_path / "out.parquet")
    assert_near(found, Predictor(model).predict(source, confidence=0.5))
    assert found.column_names[4:] == [
        *("gap_pred", "gap_std", "gap_low", "gap_high", "domain", "similarity", "nearest")
    ]
    assert found.column("nearest")[1].as_py() == "CCN"
    assert found.column("nearest").to_pylist()[10:20] == [None] * 10
    (note,) = predict_file(model, source, tmp_path / "sure.parquet", confidence=0.99).notes
    assert note.startswith("gap: the 99% intervals are infinite, since they need 99 labelled")
    for refused in (1.0, 90.0, float("nan")):
        with pytest.raises(ValueError, match=f"got confidence={refused}, expected"):
            predict_file(model, source, tmp_path / "other.parquet", confidence=refused)
    source.write_text("smiles,nearest\nC,\n")
    with pytest.raises(ValueError, match="already has a column 'nearest'"):
        predict_file(model, source, tmp_path / "other.parquet")
    assert not (tmp_path / "other.parquet").exists()
