"""A model as a graph for other programs: torch.export's .pt2, or .onnx.

The graph takes the tensors of a padded batch under the names and with the types that they have in
`batch.Batch`; any number of molecules and of atoms. Everything that the molecules have of the
chosen views is shown.
"""

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int16, Int64, UInt8
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from moleblend.chem.descriptors import molecule_features
from moleblend.chem.parsing import read_smiles
from moleblend.files import replacing
from moleblend.model import checkpoint
from moleblend.model.batch import Batch, collate
from moleblend.model.blending import ShownViews, show
from moleblend.model.heads import Model

INPUTS_2D = ("atoms", "is_atom", "degree", "path_length", "edge_path")
INPUTS_3D = (*INPUTS_2D, "positions", "has_positions")
"""Inputs of a graph that shows 2D alone, and of any other. Where the head reads features beside the
views, `joined` [b f] follows, by name in a .pt2: what `descriptors.molecule_features` gives."""


class Graph(nn.Module):
    """A model whose views are fixed, so that nothing in it depends on values.

    Args:
        members: with targets, then their mean is given; or without, then vectors of the first.
        views: what is shown.

    Raises:
        ValueError: a target is of a kind that has no graph.
    """

    is_binary: Tensor
    is_log10: Tensor
    label_scale: Tensor
    label_mean: Tensor

    def __init__(self, members: Sequence[Model], views: ShownViews) -> None:
        super().__init__()
        self.members, self.views = nn.ModuleList(member.eval() for member in members), views
        config = members[0].config
        targets = config.targets
        odd = next((t for t in targets if t.kind not in ("binary", "regression")), None)
        if odd is not None:
            raise ValueError(f"target {odd.name!r} is {odd.kind}, which cannot be exported yet")
        self.register_buffer("is_binary", torch.tensor([t.kind == "binary" for t in targets]))
        self.register_buffer("is_log10", torch.tensor([t.log10 for t in targets]))
        self.register_buffer("label_scale", torch.tensor([t.scale for t in targets]))
        self.register_buffer("label_mean", torch.tensor([t.mean for t in targets]))

    def forward(
        self,
        atoms: Int64[Tensor, "b n 9"],
        is_atom: Bool[Tensor, "b n"],
        degree: Int64[Tensor, "b n"],
        path_length: Int16[Tensor, "b n n"],
        edge_path: UInt8[Tensor, "b n n k"],
        positions: Float32[Tensor, "b n 3"] | None = None,
        has_positions: Bool[Tensor, " b"] | None = None,
        joined: Float32[Tensor, "b f"] | None = None,
    ) -> Float[Tensor, "b t"]:
        """Predict in the target's unit, or probabilities of class 1; or give vectors."""
        if positions is None or has_positions is None:
            positions = is_atom[..., None].float().expand(-1, -1, 3) * 0
            has_positions = is_atom.any(1) & False
        batch = Batch(atoms, is_atom, degree, path_length, edge_path, positions, has_positions)
        found = []
        for member in cast("list[Model]", list(self.members)):
            encoded = member.encoder.encode(
                batch, show(batch, self.views), shows_3d=self.views != "2d"
            )
            vectors = member.read_out(is_atom, encoded)
            if member.property_head is None:
                return vectors
            output = member.property_head(vectors, joined)
            scaled = output * self.label_scale + self.label_mean
            found.append(torch.where(self.is_binary, output.sigmoid(), scaled))
        mean = torch.stack(found).mean(0)
        # Of a learnt logarithm the mean is taken before the power, as in `mean_over_members`.
        return torch.where(self.is_log10, 10.0 ** mean.clamp(-30, 30), mean)


class PlainSteps(TorchFunctionMode):
    """Sums embeddings in plain steps: bags of 32-bit rows make graphs that nothing runs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if func is F.embedding_bag:
            rows, table = args
            return F.embedding(rows.long(), table).sum(-2)
        return func(*args, **(kwargs or {}))


def export(model: str | Path, out: str | Path, views: ShownViews | None = None) -> Path:
    """Write a model file as a graph.

    Args:
        model: the model file, or `packaged`.
        out: ending in .pt2 (`torch.export.load`) or .onnx (needs moleblend[export]). The graph's
            inputs are `INPUTS_2D` or `INPUTS_3D`, its output `predictions` [b t], or `vectors`
            [b d] of a model without targets. Names, units and views stand as JSON in the file: in
            `moleblend.json` of a .pt2, in the metadata of an .onnx.
        views: what is shown; by default what the model was trained to see.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the name ends otherwise, the model was not trained for these views, or a package
            is missing.
    """
    out, path = Path(out), checkpoint.locate(model)
    if out.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"{out}: a graph is written as .pt2 or .onnx")
    members, card = checkpoint.load_members(path), checkpoint.read_card(path)
    if views is not None and card.views not in ("both", views):
        raise ValueError(
            f"{path}: the model was trained to see {card.views} only, but views {views} were asked "
            "for"
        )
    shown = views or cast(ShownViews, card.views)
    graph, config = Graph(members, shown), members[0].config
    names = INPUTS_2D if shown == "2d" else INPUTS_3D
    example = collate([read_smiles(text, features=config.encoder.features) for text in _MANY])
    tensors = tuple(getattr(example, name) for name in names)
    b, n = torch.export.Dim("b"), torch.export.Dim("n")
    each = [{0: b, 1: n}] * 3 + [{0: b, 1: n, 2: n}] * 2 + [{0: b, 1: n}, {0: b}]
    axes = dict(zip(names, each, strict=False))
    beside = {}
    if config.features:
        beside["joined"] = torch.from_numpy(molecule_features(_MANY, config.features))
        axes["joined"] = {0: b}
    with PlainSteps(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch itself will do otherwise some day
        program = torch.export.export(graph, tensors, beside, dynamic_shapes=axes)
    told: dict[str, object] = {
        "views": shown,
        "features": config.encoder.features,
        "inputs": [*names, *beside],
        "joined": list(config.features),
        "output": "predictions" if config.targets else "vectors",
        "targets": [[t.name, t.kind, t.unit] for t in config.targets],
        "moleblend": card.moleblend,
    }
    with replacing(out) as temporary:
        if out.suffix == ".pt2":
            with temporary.open("wb") as file:
                extra = {"moleblend.json": json.dumps(told)}
                torch.export.save(program, file, extra_files=extra)
        else:
            _write_onnx(program, temporary, told)
    return out


_MANY = ("CCO", "c1ccccc1C(=O)O", "[Na+].[Cl-]")
"""Molecules of several sizes, so that no axis of the example is 1."""


def _write_onnx(program: torch.export.ExportedProgram, path: Path, told: dict[str, object]) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 (what torch writes with)
    except ImportError as error:
        raise ValueError("an .onnx file needs: pip install 'moleblend[export]'") from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=cast("list[str]", told["inputs"]),
            output_names=[str(told["output"])],
            verbose=False,
        )
    if written is None:
        raise ValueError("torch gave no ONNX program")
    model = written.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = "moleblend", json.dumps(told)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
