"""Published checkpoints: read without running code, every tensor in its place, or a sentence."""

import argparse
import dataclasses
import hashlib
import json
import os
import pickle
import re
import shutil
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from omegaconf import (
    BooleanNode,
    DictConfig,
    FloatNode,
    IntegerNode,
    ListConfig,
    OmegaConf,
    StringNode,
)
from safetensors.torch import save_file

from moleblend.chem.parsing import read_smiles
from moleblend.model.batch import collate
from moleblend.model.blending import show
from moleblend.model.checkpoint import convert, load, read_card
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig, Model, ModelConfig
from moleblend.model.published_weights import (
    check_names,
    from_reference,
    read_published,
    reference_slots,
    to_reference,
)

PREFIX = "encoder.molecule_encoder."
WIDTH, N_HEADS, N_KERNELS = 12, 3, 5
# Rows of the published tables, whatever the size of the model; the rest is derived from our own.
TABLES = {
    "atom_feature.atom_encoder.weight": 9 * 512 + 1,
    "atom_feature.in_degree_encoder.weight": 512,
    "atom_feature.out_degree_encoder.weight": 512,
    "molecule_attn_bias.edge_encoder.weight": 3 * 512 + 1,
    "molecule_attn_bias.edge_dis_encoder.weight": 128 * N_HEADS**2,
    "molecule_3d_bias.gbf.mul.weight": 3 * 512,
    "molecule_3d_bias.gbf.bias.weight": 3 * 512,
}
UNUSED = {
    "encoder.lm_output_learned_bias": (1,),
    "encoder.lm_head_transform_weight.weight": (WIDTH, WIDTH),
    "encoder.lm_head_transform_weight.bias": (WIDTH,),
    "encoder.layer_norm.weight": (WIDTH,),
    "encoder.layer_norm.bias": (WIDTH,),
    "encoder.embed_out.weight": (1, WIDTH),
}


def tiny(heads=True):
    encoder = EncoderConfig.published(
        width=WIDTH, ffn_width=8, n_layers=3, n_heads=N_HEADS, n_kernels=N_KERNELS
    )
    return ModelConfig(
        encoder=encoder, heads=HeadsConfig.published() if heads else None, readout="cls"
    )


def published_shapes(model):
    """Names and shapes of the state dict that the published code would write at this size."""
    ours = dict(model.named_parameters())
    shapes = dict(UNUSED)
    for slot in reference_slots(model):
        place = ours[slot.ours][slot.place]
        shape = tuple(place.shape)
        if slot.rows is not None:
            shape = (TABLES[slot.theirs], place.numel() // len(slot.rows))
        shapes[PREFIX + slot.theirs] = shape
    return shapes


def random_state(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return OrderedDict(
        (name, 0.02 * torch.randn(shape, generator=generator)) for name, shape in shapes.items()
    )


@pytest.fixture(scope="module")
def shapes():
    return published_shapes(Model(tiny()))


@pytest.fixture
def state(shapes):
    return random_state(shapes)


def fairseq_file(state, arguments="namespace"):
    """What a fairseq run saves: the weights among arguments, histories and counters."""
    args = argparse.Namespace(arch="moleblend_base", lr=[1e-5], seed=np.int64(1), user_dir=None)
    plain = {"common": {"seed": 1, "fp16": True}, "model": {"_name": "x", "width": 12}, "lr": [0.1]}
    tree = {**plain, "task": {"path": "${model._name}", "must": "???", "none": None}}
    tree["typed"] = DictConfig({"a": 1}, ref_type=dict[str, int], key_type=str, element_type=int)
    tree["list"] = ListConfig([1], ref_type=list[int], element_type=int)
    tree["nodes"] = [StringNode("x"), IntegerNode(1), FloatNode(0.5), BooleanNode(True)]
    cfg = {
        "namespace": None,
        "dict": {**plain, "task": args},
        "omegaconf": OmegaConf.create(tree),
    }[arguments]
    moments = {k: {"exp_avg": torch.ones(3), "step": 7} for k in range(2)}
    return {
        "args": args if cfg is None else None,
        "cfg": cfg,
        "model": state,
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "GraphPredictionLoss",
                "lr_scheduler_state": {"best": None},
                "num_updates": 200_000,
            }
        ],
        "task_state": {},
        "extra_state": {
            "metrics": [(0, "default", "AverageMeter", {"val": np.float64(1.5), "n": np.int64(3)})],
            "val_loss": np.float32(0.5),
            "is_best": np.bool_(True),
            "train_iterator": {"epoch": 3, "iterations_in_epoch": 0, "shuffle": True},
        },
        "last_optimizer_state": {"state": moments, "param_groups": [{"lr": 1e-5}], "loss": 1.0},
    }


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)


# ── files ──


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("arguments", ["namespace", "dict", "omegaconf"])
def test_checkpoints_of_the_published_layout(tmp_path, state, arguments, is_zip):
    path = tmp_path / "checkpoint_last.pt"
    content = fairseq_file(state, arguments)
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    assert same(read_published(path), state)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_scalars_of_older_and_newer_numpy(tmp_path, state, module):
    path = tmp_path / "checkpoint.pt"
    torch.save(fairseq_file(state), path, _use_new_zipfile_serialization=False)
    content = re.sub(rb"cnumpy\._?core\.multiarray\n", f"c{module}\n".encode(), path.read_bytes())
    assert f"c{module}\nscalar\n".encode() in content
    path.write_bytes(content)
    assert same(read_published(path), state)


def test_bare_state_dicts(tmp_path, state):
    torch.save(state, tmp_path / "bare.pt")
    save_file(dict(state), tmp_path / "bare.safetensors")
    assert same(read_published(tmp_path / "bare.pt"), state)
    assert same(read_published(tmp_path / "bare.safetensors"), state)


def test_half_precision_becomes_float32(tmp_path, state):
    path = tmp_path / "half.pt"
    torch.save({"model": {name: tensor.half() for name, tensor in state.items()}}, path)
    read = read_published(path)
    assert {tensor.dtype for tensor in read.values()} == {torch.float32}
    assert same(read, {name: tensor.half().float() for name, tensor in state.items()})


class Hostile:
    """What an attacker puts into a pickle: a function to call when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "posix.system"), (exec, "exec"), (shutil.copy, "shutil.copy")],
)
def test_code_in_a_file_is_refused_and_not_run(tmp_path, state, function, name, is_zip):
    marker = tmp_path / "was_run"
    arguments = {
        os.system: [f"touch {marker}"],
        exec: [f"open({str(marker)!r}, 'w').close()"],
        shutil.copy: [__file__, str(marker)],
    }[function]
    content = {**fairseq_file(state), "extra_state": Hostile(function, *arguments)}
    path = tmp_path / "hostile.pt"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match=f"^[^\n]*it names the type {name}, [^\n]*$"):
        read_published(path)
    assert not marker.exists()
    # The file is what it claims to be: the ordinary unpickler does run it. This test wrote it, and
    # what it does is make an empty file.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(path, weights_only=False)
    assert marker.exists()


def test_nothing_stays_allowed_after_reading(tmp_path, state):
    before = torch.serialization.get_safe_globals()
    torch.save(fairseq_file(state), tmp_path / "checkpoint.pt")
    read_published(tmp_path / "checkpoint.pt")
    after = torch.serialization.get_safe_globals()
    # torch keeps a set and gives it as a list, in arbitrary order.
    assert (len(after), set(after)) == (len(before), set(before))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such checkpoint"):
        read_published(tmp_path / "absent.pt")


@pytest.mark.parametrize("content", [b"", b"smiles,y\nCCO,1\n", pickle.dumps({"model": 1})])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.pt: not a file written by torch\.save$"):
        read_published(path)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9, 0.9999])
def test_a_truncated_file(tmp_path, state, fraction, is_zip):
    path = tmp_path / "cut.pt"
    torch.save(fairseq_file(state), path, _use_new_zipfile_serialization=is_zip)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(ValueError, match=r"^[^\n]*cut\.pt: truncated or damaged \([^\n]*\)$"):
        read_published(path)


def test_a_truncated_safetensors_file(tmp_path, state):
    path = tmp_path / "cut.safetensors"
    save_file(dict(state), path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="not a safetensors file, or truncated"):
        read_published(path)


@pytest.mark.parametrize(
    "content", [{"args": None}, {"model": None}, {"model": {}}, {"model": {"epoch": 3}}, [1, 2], 5]
)
def test_a_file_without_weights(tmp_path, content):
    path = tmp_path / "empty.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"empty\.pt: got no weights, expected"):
        read_published(path)


# ── weights ──


@pytest.mark.parametrize("has_heads", [True, False])
def test_every_parameter_is_given_by_one_published_tensor(has_heads):
    model = Model(tiny(has_heads))
    times = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for slot in reference_slots(model):
        times[slot.ours][slot.place] += 1
    for name, count in times.items():
        assert torch.equal(count, torch.ones_like(count)), name


def test_weights_come_back_under_their_published_names(state):
    bare = {
        name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name not in UNUSED
    }
    model = from_reference(state)
    assert model.config == tiny()
    published = to_reference(
        model,
        {name: tuple(tensor.shape) for name, tensor in bare.items()},
        dict(model.named_parameters()),
    )
    assert published.keys() == bare.keys()
    rows = {slot.theirs: slot.rows for slot in reference_slots(model)}
    for name, tensor in bare.items():
        kept = tensor
        if rows[name] is not None:
            kept = torch.zeros_like(tensor)
            kept[rows[name]] = tensor[rows[name]]
        assert torch.equal(published[name], kept), name


def test_names_without_the_prefix_of_a_checkpoint(state):
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    ours, theirs = from_reference(bare).state_dict(), from_reference(state).state_dict()
    assert same(ours, theirs)


def test_transformer_m_has_no_heads_for_pairs(state):
    without = {name: tensor for name, tensor in state.items() if "blend_" not in name}
    model = from_reference(without)
    assert model.config == tiny(heads=False)
    full = from_reference(state)
    assert same(model.encoder.state_dict(), full.encoder.state_dict())


def changed(name, change):
    def break_it(state):
        state[PREFIX + name] = change(state[PREFIX + name])

    return break_it


def without(part):
    def break_it(state):
        for name in [name for name in state if part in name]:
            del state[name]

    return break_it


def added(name):
    def break_it(state):
        state[PREFIX + name] = torch.zeros(2)

    return break_it


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (
            changed("layers.1.fc1.weight", torch.t),
            ("layers.1.fc1.weight does not fit: got shape (12, 8), expected shape (8, 12)"),
        ),
        (
            changed("layers.2.self_attn.q_proj.bias", lambda tensor: tensor[:-1]),
            ("layers.2.self_attn.q_proj.bias does not fit: got shape (11,), expected shape (12,)"),
        ),
        (
            changed("molecule_attn_bias.edge_encoder.weight", torch.t),
            (
                "molecule_attn_bias.edge_encoder.weight does not fit: "
                "got shape (3, 1537), expected 3 columns and at least 1029 rows"
            ),
        ),
        (
            changed("atom_feature.atom_encoder.weight", lambda tensor: tensor[:, :-1]),
            (
                "atom_feature.atom_encoder.weight does not fit: "
                "got shape (4609, 11), expected 12 columns and at least 4100 rows"
            ),
        ),
        (
            changed("atom_feature.in_degree_encoder.weight", lambda tensor: tensor[:100]),
            (
                "atom_feature.in_degree_encoder.weight does not fit: "
                "got shape (100, 12), expected 12 columns and at least 512 rows"
            ),
        ),
        (
            changed("molecule_3d_bias.gbf.mul.weight", lambda tensor: tensor[:600]),
            (
                "molecule_3d_bias.gbf.mul.weight does not fit: "
                "got shape (600, 1), expected 1 columns and at least 634 rows"
            ),
        ),
        (
            changed("molecule_attn_bias.spatial_pos_encoder.weight", lambda tensor: tensor[:-1]),
            (
                "molecule_attn_bias.spatial_pos_encoder.weight does not fit: "
                "got shape (511, 3), expected shape (512, 3)"
            ),
        ),
        (
            changed("atom_feature.graph_token.weight", torch.t),
            (
                "atom_feature.graph_token.weight does not fit: "
                "got shape (12, 1), expected shape (1, 12)"
            ),
        ),
        (
            changed("blend_3d_pred_head.force_proj2.weight", torch.t),
            (
                "blend_3d_pred_head.force_proj2.weight does not fit: "
                "got shape (256, 1), expected shape (1, 256)"
            ),
        ),
        (
            changed("emb_layer_norm.weight", lambda tensor: tensor[None]),
            ("emb_layer_norm.weight does not fit: got shape (1, 12), expected a vector"),
        ),
        (
            without("layers.1."),
            (
                "the weights do not fit: 16 missing (layers.1.fc1.bias, layers.1.fc1.weight, "
                "layers.1.fc2.bias, layers.1.fc2.weight, layers.1.final_layer_norm.bias, ...)"
            ),
        ),
        (without("spd_pred_head.linear.bias"), "1 missing (blend_spd_pred_head.linear.bias)"),
        (added("layers.0.fc3.weight"), "1 unknown (layers.0.fc3.weight)"),
        (added("layers.999999999.fc1.bias"), "1 unknown (layers.999999999.fc1.bias)"),
        (
            without("emb_layer_norm"),
            "emb_layer_norm.weight is missing: these are not weights of MoleBLEND",
        ),
    ],
)
def test_weights_that_do_not_fit(state, break_it, sentence):
    break_it(state)
    with pytest.raises(ValueError, match=f"^[^\n]*{re.escape(sentence)}[^\n]*$"):
        from_reference(state)


def test_missing_and_unknown_names_are_in_one_message():
    check_names(["a", "b"], ["b", "a"])
    with pytest.raises(
        ValueError, match=r"^the weights do not fit: 1 missing \(a\) and 1 unknown \(c\)$"
    ):
        check_names(["b", "c"], ["a", "b"])


# ── a file in, a model file out ──


def encode(model, smiles="CC(=O)Oc1ccccc1C(=O)O"):
    molecule = read_smiles(smiles, features=model.config.encoder.features)
    random = np.random.default_rng(0)
    positions = random.normal(size=(1, molecule.n_atoms, 3)).astype(np.float32)
    batch = collate([dataclasses.replace(molecule, positions=positions)])
    with torch.no_grad():
        return model.encoder(batch, show(batch, "both")).molecule


def test_convert(tmp_path, state):
    source, out = tmp_path / "checkpoint.pt", tmp_path / "model.safetensors"
    torch.save(fairseq_file(state), source)
    model = convert(source, out)
    loaded = load(out)
    assert not model.training
    assert loaded.config == model.config == tiny()
    assert same(loaded.state_dict(), from_reference(state).state_dict())
    assert torch.equal(encode(loaded), encode(model))
    card = read_card(out)
    assert card.trained_by == "convert"
    assert card.notes["source"] == "checkpoint.pt"
    assert card.notes["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert card.notes["n_published"] == sum(tensor.numel() for tensor in state.values())
    assert card.notes["n_parameters"] == sum(p.numel() for p in model.parameters())


def test_convert_writes_nothing_where_the_weights_do_not_fit(tmp_path, state):
    del state[f"{PREFIX}layers.0.fc1.weight"]
    source = tmp_path / "checkpoint.pt"
    torch.save(fairseq_file(state), source)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: the weights do not fit: 1 missing"):
        convert(source, tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_published_base_size(tmp_path, parity_fixture):
    path = parity_fixture.with_name("official_checkpoint_keys_base.json")
    if not path.is_file():
        pytest.skip(f"there is no {path.name} next to the parity fixture")
    state = random_state(json.loads(path.read_text()))
    source, out = tmp_path / "checkpoint.pt", tmp_path / "model.safetensors"
    torch.save(fairseq_file(state), source)
    convert(source, out)
    model = load(out)
    assert model.config.encoder == EncoderConfig.published()
    assert model.config.heads == HeadsConfig.published()
    assert read_card(out).notes["n_published"] == sum(t.numel() for t in state.values())
    vector = encode(model)
    assert vector.shape == (1, 768)
    assert torch.isfinite(vector).all()
