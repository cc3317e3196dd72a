import gzip
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from moleblend.chem import parsing
from moleblend.chem.descriptors import FEATURES, molecule_features
from moleblend.chem.geometry import TooSlowError, add_positions
from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.chem.parsing import read_smiles
from moleblend.data.formats import read_table, write_table
from moleblend.data.table import Rejected, read_molecules
from moleblend.data.targets import Target, unscale_outputs
from moleblend.evaluation.applicability_domain import ApplicabilityDomain
from moleblend.model import checkpoint
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.prediction import inference, inputs
from moleblend.prediction.inputs import InputRules, prepare
from moleblend.prediction.predictor import Predictor, forget_predictors, open_predictor
from tests.helpers.molecules import QM9

TINY = EncoderConfig(width=16, ffn_width=16, n_layers=1, n_heads=2, n_kernels=8, max_atoms=40)
TARGETS = (
    Target("gap", "regression", "eV", mean=7.0, scale=2.0),
    Target("toxic", "binary"),
)

Make = Callable[..., Predictor]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(
        views: str = "both", targets: tuple[Target, ...] = TARGETS, conformers: int = 0
    ) -> Predictor:
        torch.manual_seed(0)
        model = Model(ModelConfig(encoder=TINY, heads=None, targets=targets))
        for parameter in model.parameters():  # larger than they start, so that all inputs matter
            parameter.data.normal_(std=0.3)
        path = tmp_path / f"{views}-{len(targets)}.safetensors"
        notes = {"conformers": conformers}
        checkpoint.save(model, path, checkpoint.Card(trained_by="train", views=views, notes=notes))
        return Predictor(path, device="cpu")

    return make


def sdf_record(molecule: Molecule) -> str:
    """Write a molecule of uncharged atoms without stereo, flat."""
    symbols = {6: "C", 7: "N", 8: "O"}
    lines = ["", "", "", f"{molecule.n_atoms:3}{len(molecule.bonds):3}" + "  0" * 8 + "999 V2000"]
    place = f"{0:10.4f}" * 3
    lines += [f"{place} {symbols[int(z) + 1]:3}" + " 0" * 12 for z in molecule.atoms[:, 0]]
    for (first, second), (kind, *_) in zip(molecule.bonds, molecule.bond_features, strict=True):
        lines.append(f"{first + 1:3}{second + 1:3}{kind + 1:3}  0")
    return "\n".join([*lines, "M  END", "$$$$", ""])


def test_every_row_comes_back_in_order(make: Make, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(
        'id,smiles,note\n07,CCO,"a, b"\n08,C1CC,\n09,' + "C" * 41 + ",x\n10,C,x\n11\n"
    )
    table = make("2d").predict(source)
    assert table.column_names == [
        *("id", "smiles", "note", "status", "reason", "gap_pred", "toxic_pred", "toxic_prob")
    ]
    given = read_table(source).columns
    assert table.select(given.column_names).equals(given)
    assert table.column("status").to_pylist() == ["ok", "invalid", "too_large", "ok", "invalid"]
    reasons = table.column("reason").to_pylist()
    assert reasons[2] == "41 atoms, the model takes at most 40"
    assert reasons[4] == "the row has 1 cell, the header has 3"
    assert [bool(reason) for reason in reasons] == [False, True, True, False, True]
    for name in ("gap_pred", "toxic_prob"):
        values = table.column(name).to_pylist()
        assert [value is None for value in values] == [False, True, True, False, True]


def test_rows_are_skipped_or_refused_by_order(make: Make, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("smiles\nCCO\nC1CC\nCC\n")
    skipped = make("2d").predict(source, errors="skip")
    assert skipped.column("smiles").to_pylist() == ["CCO", "CC"]
    assert make("2d").predict(["C1CC"], errors="skip").num_rows == 0
    assert make("2d").embed(source, errors="skip").shape == (2, 16)
    with pytest.raises(MoleculeError, match=r"in.csv: row 2 \(line 3\): "):
        make("2d").predict(source, errors="raise")


def test_values_are_in_the_unit_of_the_label(make: Make) -> None:
    predictor = make("2d")
    table = predictor.predict(["CCO", "CCN"])
    with torch.no_grad():
        batch = inference.collate([read_smiles("CCO"), read_smiles("CCN")])
        output = predictor.model(batch, inference.show(batch, "2d")).numpy()
    assert table.column("gap_pred").to_pylist() == pytest.approx(2 * output[:, 0] + 7, abs=1e-5)
    by_hand = 1 / (1 + np.exp(-output[:, 1]))
    assert table.column("toxic_prob").to_pylist() == pytest.approx(by_hand, abs=1e-6)


def test_the_class_is_that_on_whose_side_of_the_threshold_a_molecule_is(make: Make) -> None:
    smiles = ["CCO", "CCN", "C1CC", "c1ccccc1", "CC(=O)O"]
    probabilities = (
        make("2d", (Target("t", "binary"),)).predict(smiles).column("t_prob").to_pylist()
    )
    threshold = float(np.median([p for p in probabilities if p is not None]))
    named = Target("t", "binary", classes=("no", "yes"), threshold=threshold)
    table = make("2d", (named,)).predict(smiles)
    assert table.column("t_prob").to_pylist() == probabilities
    expected = [None if p is None else ("no", "yes")[p > threshold] for p in probabilities]
    assert table.column("t_pred").to_pylist() == expected
    assert {"no", "yes", None} == set(expected)


def test_huge_outputs_give_probabilities() -> None:
    found = unscale_outputs(np.array([[-1e4], [1e4]], np.float32), [Target("b", "binary")])
    assert found.tolist() == [[0.0], [1.0]]


def test_alone_as_among_others_in_any_order(make: Make) -> None:
    predictor = make()
    table = read_table(QM9).piece(500, 550)
    together = np.array(predictor.predict(table).column("gap_pred"))
    assert np.ptp(together) > 0.1
    alone = [
        predictor.predict(table.piece(row, row + 1)).column("gap_pred")[0].as_py()
        for row in range(0, 50, 7)
    ]
    assert alone == pytest.approx(together[::7], abs=1e-5)
    molecules = [item for item in read_molecules(table) if isinstance(item, Molecule)]
    order = np.random.default_rng(0).permutation(50)
    shuffled = predictor.predict([molecules[row] for row in order])
    assert np.array(shuffled.column("gap_pred")) == pytest.approx(together[order], abs=1e-5)


def test_awkward_molecules_are_answered(make: Make, awkward: list[str]) -> None:
    table = make("2d").predict(awkward)
    statuses = table.column("status").to_pylist()
    sizes = [read_smiles(smiles).n_atoms for smiles in awkward]
    expected = ["too_large" if size > 40 else "ok" for size in sizes]
    any_atom = [
        "invalid" if "*" in smiles else status
        for smiles, status in zip(awkward, expected, strict=True)
    ]
    assert statuses == any_atom
    known = [value for value in table.column("gap_pred").to_pylist() if value is not None]
    assert len(known) == statuses.count("ok")
    assert np.isfinite(known).all()


def test_a_molecule_without_the_features_that_are_read_costs_its_row_alone() -> None:
    """RDKit reads coordinates into molecules whose SMILES it refuses."""
    odd = replace(read_smiles("CCO"), smiles="CC(C)(C)(C)C", id="odd")
    for features, statuses in (((), ["ok", "ok"]), (("ecfp4",), ["invalid", "ok"])):
        rows = prepare([odd, read_smiles("CC")], InputRules("2d", 40, required=features))
        assert [row.status for row in rows] == statuses
    assert rows[0].reason == "RDKit cannot read CC(C)(C)(C)C, and the model needs its ecfp4"


@pytest.mark.parametrize("ending", ["csv", "tsv", "smi", "csv.gz", "parquet", "sdf"])
def test_all_kinds_of_files_say_the_same(make: Make, tmp_path: Path, ending: str) -> None:
    smiles = ["CCO", "C1CC1", "CC#N"]
    path = tmp_path / f"in.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"smiles": smiles}), path)
    elif ending == "smi":
        path.write_text("".join(f"{text} name{k}\n" for k, text in enumerate(smiles)))
    elif ending == "sdf":
        path.write_text("".join(map(sdf_record, map(read_smiles, smiles))))
    else:
        between = "\t" if ending == "tsv" else ","
        text = "\n".join(
            between.join(cells) for cells in [("smiles", "n"), *zip(smiles, "123", strict=True)]
        )
        compress = gzip.compress if ending == "csv.gz" else bytes
        path.write_bytes(compress(text.encode()))
    predictor = make("2d")
    expected = predictor.predict(smiles).column("gap_pred").to_pylist()
    found = predictor.predict(path)
    assert found.column("gap_pred").to_pylist() == pytest.approx(expected, abs=1e-5)
    for out in (tmp_path / "new" / "out.csv", tmp_path / "other" / "out.parquet"):
        write_table(found, out)
        again = pa.csv.read_csv(out) if out.suffix == ".csv" else pq.read_table(out)
        assert again.column_names == found.column_names
        assert again.column("gap_pred").to_pylist() == pytest.approx(expected, abs=1e-5)


def test_geometry_is_used_as_the_model_was_trained_to(make: Make) -> None:
    flat = read_smiles("CCO")
    molecules = [add_positions(flat, seed=0), flat]
    statuses = {
        views: make(views).predict(molecules).column("status").to_pylist()
        for views in ("2d", "3d", "both")
    }
    assert statuses == {
        "2d": ["ok", "ok"],
        "3d": ["ok", "no_3d"],
        "both": ["ok", "ok_2d_only"],
    }
    in_2d, without = make("2d").predict(molecules).column("gap_pred").to_pylist()
    assert in_2d == pytest.approx(without, abs=1e-6)
    in_both, without = make("both").predict(molecules).column("gap_pred").to_pylist()
    assert abs(in_both - without) > 1e-3
    reasons = make("both").predict(molecules).column("reason").to_pylist()
    assert reasons == ["", "no geometry in the input"]


def test_views_the_model_was_not_trained_for_are_refused(make: Make) -> None:
    with pytest.raises(
        ValueError, match="got views 'both', expected '2d': the model was trained on"
    ):
        make("2d").predict(["CC"], views="both")
    assert make("both").predict(["CC"], views="2d").column("status").to_pylist() == ["ok"]


def test_a_model_file_with_unknown_views_is_refused(make: Make) -> None:
    with pytest.raises(
        ValueError, match="got a model with views '4d', expected one of 2d, 3d, both"
    ):
        make("4d")


def test_conformers_are_computed_where_training_did(make: Make) -> None:
    predictor = make("both", conformers=1)
    table = predictor.predict(["CCO", "[Na+].[Cl-].[K+].[Br-]"])
    assert table.column("status").to_pylist()[0] == "ok"
    assert predictor.predict(["CCO"]).column("gap_pred")[0].as_py() == pytest.approx(
        table.column("gap_pred")[0].as_py(), abs=1e-6
    )


def several(smiles: str, n: int) -> Molecule:
    """A molecule with n geometries that differ."""
    molecule = add_positions(read_smiles(smiles), seed=0)
    stretched = [molecule.positions[0] * (1 + 0.3 * k) for k in range(n)]
    return replace(molecule, positions=np.stack(stretched).astype(np.float32), energies=None)


def test_of_several_geometries_the_mean_is_predicted(make: Make) -> None:
    """Whatever else is in the batch, in whatever order they stand; of a class the mean log-odds."""
    predictor = make("both")
    predictor.model.encoder.kernels.spread()
    for parameter in predictor.model.encoder.distance_bias.parameters():
        parameter.data *= 5  # so that geometry matters
    whole, small = several("CC(=O)NC", 3), several("CO", 2)
    parts = [replace(whole, positions=whole.positions[[k]]) for k in range(3)]
    each = predictor.predict(parts)
    gaps = np.array(each.column("gap_pred"))
    odds = np.array([np.log(p / (1 - p)) for p in each.column("toxic_prob").to_pylist()])
    assert np.ptp(gaps) > 1e-3
    assert np.ptp(odds) > 1e-3
    turned = replace(whole, positions=whole.positions[::-1].copy())
    table = predictor.predict([small, whole, parts[0], turned])
    for row in (1, 3):
        assert table.column("gap_pred")[row].as_py() == pytest.approx(gaps.mean(), abs=1e-5)
        probability = 1 / (1 + np.exp(-odds.mean()))
        assert table.column("toxic_prob")[row].as_py() == pytest.approx(probability, abs=1e-5)
    assert table.column("gap_pred")[2].as_py() == pytest.approx(gaps[0], abs=1e-5)
    vectors = predictor.embed([small, whole, *parts])
    np.testing.assert_allclose(vectors[1], vectors[2:].mean(0), atol=1e-5)


def test_without_geometry_several_geometries_are_one(make: Make) -> None:
    predictor = make("both")
    molecule = several("CC(=O)NC", 3)
    with_one = replace(molecule, positions=molecule.positions[:1])
    np.testing.assert_array_equal(
        predictor.embed([molecule], views="2d"), predictor.embed([with_one], views="2d")
    )


def test_names_that_the_output_needs_are_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: not after an hour of prediction."""
    monkeypatch.setattr(inference, "collate", None)
    for name in ("status", "reason", "gap_pred", "toxic_prob"):
        source = tmp_path / f"{name}.csv"
        source.write_text(f"smiles,{name}\nCC,1\n")
        with pytest.raises(ValueError, match=f"already has a column '{name}', which the output"):
            make("2d").predict(source)


def test_no_rows_give_no_rows(make: Make, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("smiles,id\n")
    table = make("2d").predict(source)
    assert table.num_rows == 0
    assert table.column_names[:4] == ["smiles", "id", "status", "reason"]
    write_table(table, tmp_path / "out.parquet")
    assert make("2d").embed([]).shape == (0, 16)
    source.write_text("")
    with pytest.raises(ValueError, match=r"in.csv: the file is empty$"):
        make("2d").predict(source)


def test_molecules_of_other_features_are_refused(make: Make) -> None:
    with pytest.raises(
        ValueError, match="got features ogb-1, expected cip-1; read the molecule with"
    ):
        make("2d").predict([read_smiles("CC", features="ogb-1")])
    mixed: Any = [read_smiles("CC"), "CC"]
    with pytest.raises(TypeError, match="got 'CC' among molecules"):
        make("2d").predict(mixed)


def test_a_model_without_targets_embeds_only(tmp_path: Path) -> None:
    path = tmp_path / "pretrained.safetensors"
    model = Model(ModelConfig(encoder=TINY, heads=HeadsConfig(rank=4)))
    checkpoint.save(model, path, checkpoint.Card(trained_by="pretrain"))
    predictor = Predictor(path, device="cpu")
    with pytest.raises(ValueError, match="no targets: it was pretrained only, `moleblend train`"):
        predictor.predict(["CC"])
    vectors = predictor.embed(["CCO", "nonsense", "OCC"])
    assert vectors.shape == (3, 16)
    assert np.isnan(vectors[1]).all()
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-5)  # the same molecule


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no such model file"):
        Predictor(path)
    path.write_bytes(b"half a model")
    with pytest.raises(ValueError, match="not a model file, or truncated"):
        Predictor(path)


def test_a_stuck_molecule_is_used_in_2d(monkeypatch):
    """The process that computes geometries is the one of `conformers`, whose limit holds."""
    closed = []

    class Stuck:
        def __init__(self, config):
            assert config.n_conformers == 3

        def add_positions(self, molecule):
            raise TooSlowError(f"{molecule.id}: no geometry within 20 s")

        def close(self):
            closed.append(True)

    monkeypatch.setattr(inputs, "Conformers", Stuck)
    items = [read_smiles("CCO"), Rejected(2, "x", "no")]
    statuses = [(row.status, row.reason) for row in prepare(items, InputRules("both", 512), 3)]
    assert statuses == [("ok_2d_only", "CCO: no geometry within 20 s"), ("invalid", "no")]
    assert prepare(items, InputRules("3d", 512), 3)[0].status == "no_3d"
    assert len(closed) == 2


def test_members_are_averaged_and_their_standard_deviation_is_given(tmp_path: Path) -> None:
    targets = (
        Target("gap", "regression", mean=7.0, scale=2.0),
        Target("dose", "regression", log10=True),
        Target("toxic", "binary"),
        Target("kind", "multiclass", classes=("a", "b", "c")),
    )
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        members.append(Model(ModelConfig(encoder=TINY, heads=None, targets=targets)))
        for parameter in members[-1].parameters():
            parameter.data.normal_(std=0.3)
    path = tmp_path / "ensemble.safetensors"
    card = checkpoint.Card(trained_by="train", views="2d")
    checkpoint.save(members, path, card)
    table = Predictor(path, device="cpu").predict(["CCO", "C1CC", "CCN"])
    assert table.column_names[3:] == [
        *("gap_pred", "gap_members_std", "dose_pred", "dose_log10_pred"),
        *("dose_members_std", "dose_members_log10_std"),
        *(
            "toxic_pred",
            "toxic_prob",
            "toxic_members_std",
            "kind_pred",
            "kind_prob_a",
            "kind_prob_b",
            "kind_prob_c",
        ),
        "kind_members_std",
    ]
    assert all(column[1].as_py() is None for column in table.columns[3:])
    for k, member in enumerate(members):
        checkpoint.save(member, path.with_name(f"{k}.safetensors"), card)
    alone = [Predictor(path.with_name(f"{k}.safetensors")).predict(["CCO"]) for k in range(3)]

    def each(name: str) -> np.ndarray:
        return np.array([found.column(name)[0].as_py() for found in alone])

    def value(name: str) -> Any:
        return table.column(name)[0].as_py()

    assert value("gap_pred") == pytest.approx(each("gap_pred").mean())
    assert value("gap_members_std") == pytest.approx(each("gap_pred").std(), rel=1e-4)
    assert value("dose_log10_pred") == pytest.approx(each("dose_log10_pred").mean())
    assert value("dose_pred") == pytest.approx(10 ** each("dose_log10_pred").mean())
    assert value("toxic_prob") == pytest.approx(each("toxic_prob").mean())
    probabilities_of_kind = np.array([each(f"kind_prob_{name}") for name in "abc"])
    assert value("kind_pred") == "abc"[probabilities_of_kind.mean(1).argmax()]
    assert value("kind_members_std") == pytest.approx(
        probabilities_of_kind.std(1)[probabilities_of_kind.mean(1).argmax()], rel=1e-4
    )


def test_a_smiles_is_parsed_once_and_its_canonical_form_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With features and an applicability domain; the record is that of the canonical SMILES."""
    features = ("ecfp4", "descriptors")
    n_features = sum(FEATURES[kind] for kind in features)
    config = ModelConfig(
        encoder=TINY, heads=None, targets=TARGETS, features=features, n_features=n_features
    )
    torch.manual_seed(0)
    model = Model(config)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    rng = np.random.default_rng(0)
    training, vectors = ["C", "CC", "CCN"], rng.normal(size=(3, TINY.width))
    domain = ApplicabilityDomain.fit(vectors, training, np.arange(3), vectors, training)
    path = tmp_path / "model.safetensors"
    checkpoint.save(model, path, checkpoint.Card(trained_by="train", views="2d"), domain=domain)
    predictor = Predictor(path, device="cpu")
    canonical, other = ["CCO", "CCN", "c1ccccc1"], ["OCC", "NCC", "C1=CC=CC=C1"]

    parsed: list[str] = []
    read = parsing.Chem.MolFromSmiles

    def count(text: str, *parameters: Any) -> Any:
        parsed.append(text)
        return read(text, *parameters)

    monkeypatch.setattr(parsing.Chem, "MolFromSmiles", count)
    table = predictor.predict(canonical)
    assert parsed == canonical
    assert table.column("nearest").to_pylist()[1] == "CCN"
    parsed.clear()
    again = predictor.predict(other)
    assert sorted(parsed) == sorted(canonical + other)
    monkeypatch.undo()
    for name in ("gap_pred", "toxic_prob", "similarity"):
        np.testing.assert_array_equal(np.array(table[name]), np.array(again[name]))

    batch = inference.collate([read_smiles(text) for text in canonical])
    with torch.no_grad():
        expected = predictor.model(
            batch,
            inference.show(batch, "2d"),
            torch.from_numpy(molecule_features(canonical, features)),
        ).numpy()
    np.testing.assert_allclose(np.array(table["gap_pred"]), 2 * expected[:, 0] + 7, rtol=1e-5)
    scores = domain.score(predictor.embed(canonical), canonical)
    np.testing.assert_array_equal(np.array(table["similarity"]), scores.similarity)


def test_the_domain_is_unknown_where_rdkit_refuses_the_smiles(tmp_path: Path) -> None:
    model = Model(ModelConfig(encoder=TINY, heads=None, targets=TARGETS))
    vectors = np.random.default_rng(0).normal(size=(2, TINY.width))
    domain = ApplicabilityDomain.fit(vectors, ["C", "CC"], np.arange(2), vectors, ["C", "CC"])
    path = tmp_path / "model.safetensors"
    checkpoint.save(model, path, checkpoint.Card(trained_by="train", views="2d"), domain=domain)
    odd = replace(read_smiles("CCO"), smiles="CC(C)(C)(C)C", id="odd")
    table = Predictor(path, device="cpu").predict([odd, read_smiles("CC")])
    assert table.column("status").to_pylist() == ["ok", "ok"]
    assert [value is None for value in table.column("gap_pred").to_pylist()] == [False, False]
    assert [value is None for value in table.column("domain").to_pylist()] == [True, False]


def test_an_opened_model_is_reused_until_its_file_changes(make: Make) -> None:
    forget_predictors()
    path = make("2d").path
    first = open_predictor(path)
    assert open_predictor(str(path)) is first
    assert open_predictor(path, device="cpu") is not first
    content = path.read_bytes()
    from_bytes = open_predictor(content)
    assert open_predictor(content) is from_bytes
    np.testing.assert_array_equal(from_bytes.embed(["CCO"]), first.embed(["CCO"]))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert open_predictor(path) is not first
    forget_predictors()
    assert open_predictor(content) is not from_bytes


def test_a_usable_row_without_a_finite_prediction_is_never_ok(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = make("2d")
    read_out = Model.embed

    def broken(model: Model, batch: Any, blend: Any) -> torch.Tensor:
        vectors = read_out(model, batch, blend)
        return torch.where(batch.is_atom.sum(1)[:, None] == 2, torch.nan, vectors)

    monkeypatch.setattr(Model, "embed", broken)
    smiles = ["CCO", "CC", "C1CC"]
    table = predictor.predict(smiles)
    assert table["status"].to_pylist() == ["ok", "not_finite", "invalid"]
    assert [value is None for value in table["gap_pred"].to_pylist()] == [False, True, True]
    assert [value is None for value in table["toxic_pred"].to_pylist()] == [False, True, True]
    table, vectors = predictor.embed_table(smiles)
    assert table["status"].to_pylist() == ["ok", "not_finite", "invalid"]
    assert np.isnan(vectors).all(1).tolist() == [False, True, True]
    assert len(predictor.embed(smiles, errors="skip")) == 1
    with pytest.raises(MoleculeError, match="row 2: the model computes NaN or infinity"):
        predictor.predict(smiles[:2], errors="raise")
