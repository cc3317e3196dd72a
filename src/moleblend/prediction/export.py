"""Export of a model to other programs: as .pt2 (torch.export) or .onnx.

The inputs of the exported graph are the tensors of a padded batch, with the names and types of
`batch.Batch`, for any number of molecules and atoms. The chosen views are shown completely, without
blending.
"""

import io
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int16, Int64, UInt8
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from moleblend.chem.descriptors import FEATURES, molecule_features
from moleblend.chem.parsing import read_smiles
from moleblend.config import check_choice
from moleblend.data.targets import Target
from moleblend.errors import SettingError
from moleblend.files import check_outputs, replacing
from moleblend.model import checkpoint
from moleblend.model.batch import Batch, collate
from moleblend.model.blending import ShownViews, show
from moleblend.model.heads import Model
from moleblend.trees.averaging import SMALLEST_SHARE, feature_columns, feature_kinds
from moleblend.trees.tree_model import LEAF, TreeModel

INPUTS_2D = ("atoms", "is_atom", "degree", "path_length", "edge_path")
INPUTS_3D = (*INPUTS_2D, "positions", "has_positions")
"""Inputs of a graph that shows 2D only, and of any other graph. If the model reads molecule
features, a last input `features` [b f] takes them (in a .pt2 by name), as
`descriptors.molecule_features` computes them."""


class TreeGraph(nn.Module):
    """Trees as tensor operations: all paths are followed for as many steps as the deepest has.

    Args:
        model: the trees.
        target: the target of the trees.
        kinds: of the features that the graph reads, in their order.
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    roots: Tensor
    base: Tensor

    def __init__(self, model: TreeModel, target: Target, kinds: Sequence[str]) -> None:
        super().__init__()
        self.n_steps, self.target, self.is_boosted = model.depth(), target, model.header.is_boosted
        columns = np.arange(sum(FEATURES[kind] for kind in kinds))
        columns = columns[feature_columns(kinds, model.inputs)]
        is_leaf, nodes = model.feature == LEAF, np.arange(len(model.feature))
        arrays = {
            "feature": np.where(is_leaf, 0, columns[model.feature]),
            "threshold": model.threshold,
            "left": np.where(is_leaf, nodes, nodes + 1),
            "right": np.where(is_leaf, nodes, model.right),
            "value": model.value[:, 0],
            "roots": model.roots.astype(np.int64),
            "base": model.base[0],
        }
        for name, values in arrays.items():
            self.register_buffer(name, torch.as_tensor(values))

    def forward(self, features: Float32[Tensor, "b f"]) -> Float[Tensor, " b"]:
        """Compute the value that is averaged: in the scale of training, or log-odds."""
        node = self.roots.expand(features.shape[0], -1)
        for _ in range(self.n_steps):
            is_left = features.gather(1, self.feature[node]) <= self.threshold[node]
            node = torch.where(is_left, self.left[node], self.right[node])
        values = self.value[node]
        raw = self.base + values.sum(1) if self.is_boosted else values.mean(1)
        if self.target.kind == "regression":
            return raw
        return log_odds(raw.sigmoid() if self.is_boosted else raw)


def log_odds(share: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Compute the log-odds as `averaging.to_average` does."""
    share = share.clamp(SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    return share.log() - (-share).log1p()


class Graph(nn.Module):
    """A model with fixed views, whose computation does not depend on the values of its inputs.

    Args:
        members: the networks of a model. A model without targets gives vectors.
        views: which views are shown.
        tree_models: its trees, whose predictions are averaged with those of the networks.

    Raises:
        SettingError: a target has several classes.
    """

    is_binary: Tensor
    is_log10: Tensor
    label_scale: Tensor
    label_mean: Tensor
    network_weight: Tensor

    def __init__(
        self, members: Sequence[Model], views: ShownViews, tree_models: Sequence[TreeModel] = ()
    ) -> None:
        super().__init__()
        self.members, self.views = nn.ModuleList(member.eval() for member in members), views
        config = members[0].config
        targets = config.targets
        odd = next((t for t in targets if t.kind not in ("binary", "regression")), None)
        if odd is not None:
            raise SettingError(
                f"target {odd.name!r} is {odd.kind}; only regression and binary targets can be "
                "exported"
            )
        self.register_buffer("is_binary", torch.tensor([t.kind == "binary" for t in targets]))
        self.register_buffer("is_log10", torch.tensor([t.log10 for t in targets]))
        self.register_buffer("label_scale", torch.tensor([t.scale for t in targets]))
        self.register_buffer("label_mean", torch.tensor([t.mean for t in targets]))
        kinds, by_name = feature_kinds(config.features, tree_models), {t.name: t for t in targets}
        self.n_features = config.n_features
        self.trees = nn.ModuleList(
            TreeGraph(model, by_name[model.target], kinds) for model in tree_models
        )
        places = {t.name: k for k, t in enumerate(targets)}
        self.tree_weights = [(places[model.target], model.weight) for model in tree_models]
        of_trees = [0.0] * len(targets)
        for place, weight in self.tree_weights:
            of_trees[place] += weight
        self.register_buffer("network_weight", 1 - torch.tensor(of_trees))

    def forward(
        self,
        atoms: Int64[Tensor, "b n 9"],
        is_atom: Bool[Tensor, "b n"],
        degree: Int64[Tensor, "b n"],
        path_length: Int16[Tensor, "b n n"],
        edge_path: UInt8[Tensor, "b n n k"],
        positions: Float32[Tensor, "b n 3"] | None = None,
        has_positions: Bool[Tensor, " b"] | None = None,
        features: Float32[Tensor, "b f"] | None = None,
    ) -> Float[Tensor, "b t"]:
        """Predict values in the target's unit, and probabilities of class 1; or compute vectors."""
        if positions is None or has_positions is None:
            positions = is_atom[..., None].float().expand(-1, -1, 3) * 0
            has_positions = is_atom.any(1) & False
        batch = Batch(atoms, is_atom, degree, path_length, edge_path, positions, has_positions)
        predictions = []
        for member in cast("list[Model]", list(self.members)):
            encoded = member.encoder.encode(
                batch, show(batch, self.views), shows_3d=self.views != "2d"
            )
            vectors = member.read_out(is_atom, encoded)
            if member.property_head is None:
                return vectors
            inputs = None if features is None else features[:, : self.n_features]
            output = member.property_head(vectors, inputs if self.n_features else None)
            value = output * self.label_scale + self.label_mean
            predictions.append(torch.where(self.is_binary, output.sigmoid(), value))
        mean = torch.stack(predictions).mean(0)
        if self.tree_weights:
            assert features is not None
            mean = self._with_trees(torch.stack(predictions), features)
        # Logarithms are averaged before exponentiation, as in `averaging.MemberValues`.
        return torch.where(self.is_log10, 10.0 ** mean.clamp(-30, 30), mean)

    def _with_trees(
        self, predictions: Float[Tensor, "m b t"], features: Float32[Tensor, "b f"]
    ) -> Float[Tensor, "b t"]:
        """Average networks and trees as `averaging.MemberValues` does."""
        odds = log_odds(predictions)
        scaled = torch.where(self.is_binary, odds, predictions).mean(0)
        columns = list((self.network_weight * scaled).unbind(1))
        for trees, (place, weight) in zip(self.trees, self.tree_weights, strict=True):
            columns[place] = columns[place] + weight * trees(features)
        mean = torch.stack(columns, 1)
        return torch.where(self.is_binary, mean.sigmoid(), mean)


class WithoutEmbeddingBag(TorchFunctionMode):
    """Replaces `embedding_bag` by lookup and sum: no ONNX runtime accepts it with int32 indices."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if func is F.embedding_bag:
            rows, table = args
            return F.embedding(rows.long(), table).sum(-2)
        return func(*args, **(kwargs or {}))


def export(model: str | Path, out: str | Path, views: ShownViews | None = None) -> Path:
    """Export a model file.

    Args:
        model: a model file, a run folder, or `packaged`.
        out: ending in .pt2 (`torch.export.load`) or .onnx (needs moleblend[export]). The inputs of
            the graph are `INPUTS_2D` or `INPUTS_3D`; its output is `predictions` [b t], or
            `vectors` [b d] for a model without targets. The file also holds names, units and views
            as JSON: in `moleblend.json` of a .pt2, in the metadata `moleblend` of an .onnx.
        views: which views are shown; by default those of training.

    Returns:
        `out`.

    Raises:
        MissingFileError: there is no such model.
        SettingError: the file name has another ending, the model was not trained for these views,
            it has a multi-class target, or a package is missing.
    """
    out, path = Path(out), checkpoint.locate(model)
    if out.suffix not in (".pt2", ".onnx"):
        raise SettingError(f"{out}: expected a file name that ends in .pt2 or .onnx")
    check_outputs([out], [path])
    if views is not None:
        check_choice("views", views, ShownViews)
    file = checkpoint.read_model_file(path)
    members, card = file.members, file.card
    if views is not None and card.views not in ("both", views):
        raise SettingError(
            f"{path}: got views {views!r}, expected {card.views!r}: the model was trained on these "
            "only"
        )
    shown = views or cast(ShownViews, card.views)
    graph, config = Graph(members, shown, file.tree_models), members[0].config
    kinds = feature_kinds(config.features, file.tree_models)
    names = INPUTS_2D if shown == "2d" else INPUTS_3D
    example = collate([read_smiles(text, features=config.encoder.features) for text in _MANY])
    tensors = tuple(getattr(example, name) for name in names)
    b, n = torch.export.Dim("b"), torch.export.Dim("n")
    each = [{0: b, 1: n}] * 3 + [{0: b, 1: n, 2: n}] * 2 + [{0: b, 1: n}, {0: b}]
    axes = dict(zip(names, each, strict=False))
    by_name = {}
    if kinds:
        by_name["features"] = torch.from_numpy(molecule_features(_MANY, kinds))
        axes["features"] = {0: b}
    with WithoutEmbeddingBag(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch
        program = torch.export.export(graph, tensors, by_name, dynamic_shapes=axes)
    metadata: dict[str, object] = {
        "views": shown,
        "feature_version": config.encoder.features,
        "inputs": [*names, *by_name],
        "features": list(kinds),
        "output": "predictions" if config.targets else "vectors",
        "targets": [[t.name, t.kind, t.unit] for t in config.targets],
        "moleblend": card.moleblend,
    }
    with replacing(out) as temporary:
        if out.suffix == ".pt2":
            # Through memory: on a full disk torch itself would raise an unclear error.
            content = io.BytesIO()
            extra = {"moleblend.json": json.dumps(metadata)}
            torch.export.save(program, content, extra_files=extra)
            temporary.write_bytes(content.getbuffer())
        else:
            _write_onnx(program, temporary, metadata)
    return out


_MANY = ("CCO", "c1ccccc1C(=O)O", "[Na+].[Cl-]")
"""Example molecules of several sizes, so that no axis has length 1."""


def _write_onnx(
    program: torch.export.ExportedProgram, path: Path, metadata: dict[str, object]
) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise SettingError("an .onnx file needs: pip install 'moleblend[export]'") from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=cast("list[str]", metadata["inputs"]),
            output_names=[str(metadata["output"])],
            verbose=False,
        )
    if written is None:
        raise SettingError("torch.onnx.export returned no program")
    model = written.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = "moleblend", json.dumps(metadata)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
