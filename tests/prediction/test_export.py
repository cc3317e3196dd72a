"""Exported graphs compute what the model computes, for other shapes than they were made with."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from moleblend.chem.descriptors import FEATURES, molecule_features
from moleblend.chem.parsing import read_smiles
from moleblend.cli import main as cli
from moleblend.data.targets import Target, unscale_outputs
from moleblend.model import checkpoint
from moleblend.model.batch import Batch, collate
from moleblend.model.blending import ShownViews, show
from moleblend.model.heads import Model, ModelConfig
from moleblend.prediction.export import INPUTS_2D, INPUTS_3D, export
from moleblend.prediction.predictor import Predictor
from moleblend.trees.averaging import MemberValues
from moleblend.trees.tree_model import TreeModel
from tests.helpers.runs import TINY

TARGETS = (Target("gap", "regression", "eV", 1.5, 2.0), Target("toxic", "binary"))
SHAPES = (["CCO", "c1ccccc1"], ["C" * k for k in range(2, 9)], ["C" * 60], ["C"], ["[Na+].[Cl-]"])


def saved(
    folder: Path,
    targets: tuple[Target, ...],
    views: str = "both",
    n_members: int = 1,
    features: tuple[str, ...] = (),
) -> Path:
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=TINY,
        heads=None,
        targets=targets,
        features=features,
        n_features=sum(FEATURES[kind] for kind in features),
    )
    members = [Model(config) for _ in range(n_members)]
    for model in members:
        for parameter in model.parameters():
            parameter.data.normal_(std=0.3)
    path = folder / "model.safetensors"
    checkpoint.save(members, path, checkpoint.Card(trained_by="train", views=views))
    return path


def batches() -> list[Batch]:
    """Batches of every shape; every other molecule has a geometry."""
    found = []
    for smiles in SHAPES:
        batch = collate([read_smiles(text) for text in smiles])
        rng = torch.Generator().manual_seed(len(smiles))
        has_positions = torch.arange(len(batch)) % 2 == 0
        positions = 3 * torch.randn(batch.positions.shape, generator=rng)
        positions *= (batch.is_atom & has_positions[:, None])[..., None]
        found.append(replace(batch, positions=positions, has_positions=has_positions))
    return found


@torch.no_grad()
def expected(path: Path, batch: Batch, views: ShownViews) -> np.ndarray:
    members = checkpoint.load_members(path)
    blend, targets = show(batch, views), members[0].config.targets
    if not targets:
        return members[0].embed(batch, blend).numpy()
    found = [unscale_outputs(member(batch, blend).numpy(), targets) for member in members]
    return MemberValues.of_networks(np.stack(found)).mean(targets)


def test_onnx_for_every_shape(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, out = saved(tmp_path, TARGETS), tmp_path / "model.onnx"
    assert cli.main(["export", str(model), str(out)]) == 0
    assert capfd.readouterr().err == f"exported to {out}\n"
    session = onnxruntime.InferenceSession(out)
    assert tuple(item.name for item in session.get_inputs()) == INPUTS_3D
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["moleblend"])
    assert metadata["targets"] == [["gap", "regression", "eV"], ["toxic", "binary", ""]]
    for batch in batches():
        given = {name: getattr(batch, name).numpy() for name in INPUTS_3D}
        (found,) = session.run(["predictions"], given)
        np.testing.assert_allclose(found, expected(model, batch, "both"), atol=2e-5)


def test_onnx_of_vectors_from_2d_alone(tmp_path: Path) -> None:
    model, out = saved(tmp_path, ()), tmp_path / "model.onnx"
    export(model, out, "2d")
    session = onnxruntime.InferenceSession(out)
    assert tuple(item.name for item in session.get_inputs()) == INPUTS_2D
    for batch in batches():
        given = {name: getattr(batch, name).numpy() for name in INPUTS_2D}
        (found,) = session.run(["vectors"], given)
        np.testing.assert_allclose(found, expected(model, batch, "2d"), atol=2e-5)


def test_pt2_for_every_shape_of_an_ensemble_with_a_logarithm(tmp_path: Path) -> None:
    targets = (*TARGETS, Target("IC50", "regression", "nM", 2.0, 0.7, log10=True))
    model, out = saved(tmp_path, targets, n_members=2), tmp_path / "model.pt2"
    extra = {"moleblend.json": ""}
    graph = torch.export.load(export(model, out), extra_files=extra).module()
    assert json.loads(extra["moleblend.json"])["inputs"] == list(INPUTS_3D)
    for batch in batches():
        found = graph(*(getattr(batch, name) for name in INPUTS_3D))
        np.testing.assert_allclose(
            found.detach().numpy(), expected(model, batch, "both"), rtol=2e-5, atol=2e-6
        )


@pytest.mark.parametrize(
    ("views", "features"), [("2d", ("ecfp4",)), ("both", ("ecfp4", "descriptors"))]
)
def test_a_graph_of_a_model_that_reads_features(
    tmp_path: Path, features: tuple[str, ...], views: ShownViews
) -> None:
    model, smiles = saved(tmp_path, TARGETS, features=features), ["CCO", "c1ccccc1N", "C"]
    batch, array = (
        collate([read_smiles(one) for one in smiles]),
        molecule_features(smiles, features),
    )
    names = INPUTS_2D if views == "2d" else INPUTS_3D
    given = {name: getattr(batch, name) for name in names}
    table = Predictor(model).predict(smiles, views=views)
    right = np.stack([table["gap_pred"].to_numpy(), table["toxic_prob"].to_numpy()], 1)
    session = onnxruntime.InferenceSession(export(model, tmp_path / "model.onnx", views))
    assert [item.name for item in session.get_inputs()] == [*names, "features"]
    arrays = {name: tensor.numpy() for name, tensor in given.items()} | {"features": array}
    np.testing.assert_allclose(session.run(["predictions"], arrays)[0], right, atol=5e-5)
    extra = {"moleblend.json": ""}
    program = torch.export.load(export(model, tmp_path / "model.pt2", views), extra_files=extra)
    assert json.loads(extra["moleblend.json"])["features"] == list(features)
    found = program.module()(*given.values(), features=torch.from_numpy(array))
    np.testing.assert_allclose(found.detach().numpy(), right, atol=5e-5)


@pytest.mark.parametrize("features", [(), ("descriptors",)])
def test_a_graph_averages_networks_and_trees(tmp_path: Path, features: tuple[str, ...]) -> None:
    targets = (*TARGETS, Target("IC50", "regression", "nM", 2.0, 0.7, log10=True))
    model, smiles = saved(tmp_path, targets, "2d", 2, features), ["CCO", "c1ccccc1N", "C"]
    inputs = ("ecfp4", "properties")
    x = molecule_features([*smiles, "CCN", "CCCC"], inputs)
    y, c = np.arange(5.0), np.array([0, 1, 0, 1, 1])
    trained = [
        (RandomForestRegressor(5, random_state=0).fit(x, y), targets[0], 0.3),
        (GradientBoostingRegressor(n_estimators=5).fit(x, y), targets[0], 0.4),
        (RandomForestClassifier(5, random_state=0).fit(x, c), targets[1], 0.2),
        (GradientBoostingClassifier(n_estimators=5).fit(x, c), targets[1], 0.5),
        (GradientBoostingRegressor(n_estimators=5).fit(x, y), targets[2], 0.6),
    ]
    tree_models = [
        TreeModel.from_sklearn(one, target, inputs).with_weight(w) for one, target, w in trained
    ]
    file = checkpoint.read_model_file(model)
    checkpoint.save(file.members, model, file.card, tree_models=tree_models)
    table = Predictor(model).predict(smiles)
    names = ("gap_pred", "toxic_prob", "IC50_pred")
    right = np.stack([table[name].to_numpy() for name in names], 1)
    batch = collate([read_smiles(one) for one in smiles])
    given = {name: getattr(batch, name) for name in INPUTS_2D}
    array = molecule_features(smiles, tuple(dict.fromkeys([*features, *inputs])))
    session = onnxruntime.InferenceSession(export(model, tmp_path / "model.onnx"))
    arrays = {name: tensor.numpy() for name, tensor in given.items()} | {"features": array}
    np.testing.assert_allclose(session.run(["predictions"], arrays)[0], right, rtol=2e-4)
    program = torch.export.load(export(model, tmp_path / "model.pt2"))
    found = program.module()(*given.values(), features=torch.from_numpy(array))
    np.testing.assert_allclose(found.detach().numpy(), right, rtol=2e-4)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    model = saved(tmp_path, TARGETS, views="2d")
    with pytest.raises(ValueError, match=r"expected a file name that ends in \.pt2 or \.onnx"):
        export(model, tmp_path / "model.txt")
    with pytest.raises(ValueError, match="got views '3d', expected '2d'"):
        export(model, tmp_path / "model.onnx", "3d")
    with pytest.raises(FileNotFoundError, match="no such model file"):
        export(tmp_path / "no.safetensors", tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
