"""Files of older versions are read, and give the same predictions."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from moleblend.config import from_dict, to_dict
from moleblend.data.formats import read_table
from moleblend.data.labels.cell_values import read_numbers
from moleblend.data.targets import Target
from moleblend.evaluation.applicability_domain import BORDERLINE, IN_DOMAIN, OUT_OF_DOMAIN
from moleblend.model import checkpoint
from moleblend.model.blending import BlendConfig
from moleblend.model.checkpoint import Card
from moleblend.model.compat import (
    upgrade_card,
    upgrade_header,
    upgrade_metrics,
    upgrade_pretrain_config,
)
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import Model, ModelConfig
from moleblend.prediction.predictor import Predictor

GOLDEN = Path(__file__).parent / "golden"
ENCODER = EncoderConfig(width=8, ffn_width=12, n_layers=2, n_heads=2, n_kernels=4)
GAP = Target("gap", "regression", unit="eV", mean=6.5, scale=1.25)
DOMAIN_WORDS = {
    "as near to training as validation": IN_DOMAIN,
    "further from training than most of validation": BORDERLINE,
    "further from training than validation: do not rely on it": OUT_OF_DOMAIN,
}


def test_the_first_golden_model_predicts_the_same():
    """See golden/make.py."""
    expected = read_table(GOLDEN / "model-1.csv")
    predictor = Predictor(GOLDEN / "model-1.safetensors")
    table = predictor.predict(expected.column("smiles").to_pylist(), views="2d")
    for name in ("gap_pred", "toxic_prob"):
        np.testing.assert_allclose(table[name].to_numpy(), read_numbers(expected, name), atol=2e-5)
    assert len(table) == 5
    assert predictor.card.notes == {"k": 1}
    assert predictor.model.config.targets[0] == Target("gap", "regression", "eV", 6.8, 1.3)
    assert predictor.model.pair_heads is not None


def test_the_second_golden_model_predicts_the_same():
    """It has uncertainty and a domain under their former names; only the domain's words differ."""
    expected = read_table(GOLDEN / "model-2.csv")
    predictor = Predictor(GOLDEN / "model-2.safetensors", device="cpu")
    table = predictor.predict(expected.column("smiles").to_pylist())
    assert table.column_names == expected.names
    for name in expected.names:
        if name == "domain":
            values = [DOMAIN_WORDS[words] for words in expected.column(name).to_pylist()]
            assert table[name].to_pylist() == values
        elif pa.types.is_floating(table[name].type):
            np.testing.assert_allclose(
                table[name].to_numpy(), read_numbers(expected, name), rtol=1e-5
            )
        else:
            assert table[name].to_pylist() == expected.column(name).to_pylist()
    assert len(predictor.members) == 2
    assert set(predictor.card.notes["metrics"]) == {
        *("test", "constant_baseline", "baseline", "settings")
    }
    assert predictor.card.notes["metrics"]["settings"] == {"seed": 0, "uncertainty": {"notes": []}}


def test_a_file_that_is_read_and_written_has_the_names_of_today(tmp_path):
    old, new = GOLDEN / "model-2.safetensors", tmp_path / "new.safetensors"
    with safe_open(old, framework="pt") as file:
        assert "sureness" in file.metadata()
    checkpoint.save(
        checkpoint.load_members(old),
        new,
        checkpoint.read_card(old),
        uncertainty=checkpoint.read_uncertainty(old),
        domain=checkpoint.read_domain(old),
    )
    with safe_open(new, framework="pt") as file:
        header = file.metadata()
    assert "uncertainty" in header
    assert "sureness" not in header
    smiles = ["CCO", "c1ccccc1"]
    tables = [Predictor(path, device="cpu").predict(smiles) for path in (old, new)]
    assert tables[0].equals(tables[1])


def test_a_file_from_before_ensembles_and_classes_is_read(tmp_path):
    """Such a header has no `members`, and its targets have neither classes nor a threshold."""
    path = tmp_path / "old.safetensors"
    model = Model(ModelConfig(encoder=ENCODER, heads=None, targets=(GAP,)))
    checkpoint.save(model, path, Card(trained_by="train"))
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["members"], header["sha256"]
    config = json.loads(header["config"])
    for name in ("features", "n_features"):
        del config[name]
    for name in ("log10", "classes", "threshold"):
        del config["targets"][0][name]
    save_file(tensors, path, metadata=header | {"config": json.dumps(config)})
    assert checkpoint.load(path).config == model.config


def test_former_names_are_translated_and_all_else_stays():
    metrics = {
        "validation": {"choices": {"bounds respected": 0.5, "n_bounds": 2, "MAE": 1.0}},
        "test_of_predicting_the_training_mean": {"y": {"n_bounds": 2}},
        "random_forest_on_ecfp4": {
            "test": {"y": {"n_bounds": 2}},
            "not_learnt": None,
            "compared": {"gain": {"gain": 0.1, "is_beyond_noise": True, "n": 9}},
        },
        "uncertainty": {"test": {"y": {"ranked_by": "spread"}, "z": {"ranked_by": "distance"}}},
        "spread": {
            "n": 3,
            "test": {"y": {"n_bounds": 0, "MAE": {"mean": 1.0, "sd": 0.5}}},
            "test_of_random_forest": {"y": {"MAE": {"mean": 2.0, "sd": None}}},
        },
        "choices": {
            "sureness": {"notes": []},
            "seed": 0,
            "rows": 9,
            "usable": 8,
            "parts": {"train": 8},
            "relations": {},
            "repeats": {"rows": 2},
            "targets": {"rows": {"n_bounds": 1, "n_labels": 8}},
            "search": {"figure": 0.5, "figure_of_trial_1": 0.4, "found": {"ema": 0.9}},
        },
    }
    before = json.dumps(metrics)
    today = {
        "validation": {"choices": {"censored labels respected": 0.5, "n_censored": 2, "MAE": 1.0}},
        "constant_baseline": {"y": {"n_censored": 2}},
        "baseline": {
            "test": {"y": {"n_censored": 2}},
            "not_trained": None,
            "comparison": {"gain": {"improvement": 0.1, "is_significant": True, "n": 9}},
        },
        "uncertainty": {"test": {"y": {"ranked_by": "std"}, "z": {"ranked_by": "distance"}}},
        "std": {
            "n": 3,
            "test": {"y": {"n_censored": 0, "MAE": {"mean": 1.0, "std": 0.5}}},
            "baseline_test": {"y": {"MAE": {"mean": 2.0, "std": None}}},
        },
        "settings": {
            "uncertainty": {"notes": []},
            "seed": 0,
            "n_rows": 9,
            "n_usable": 8,
            "set_sizes": {"train": 8},
            "qualifiers": {},
            "duplicates": {"rows": 2},
            "targets": {"rows": {"n_censored": 1, "n_labels": 8}},
            "search": {"score": 0.5, "score_of_trial_1": 0.4, "best_settings": {"ema": 0.9}},
        },
    }
    assert upgrade_metrics(metrics) == today
    assert upgrade_metrics(today) == today
    assert json.dumps(metrics) == before  # the argument is not changed
    card = {"trained_by": "train", "notes": {"metrics": metrics, "conformers": 1}}
    assert upgrade_card(card) == {
        "trained_by": "train",
        "notes": {"metrics": today, "conformers": 1},
    }
    assert upgrade_header({"sureness": "a"}) == {"members": "1", "uncertainty": "a"}
    assert upgrade_header({"sureness": "a", "uncertainty": "b", "members": "2"}) == {
        "members": "2",
        "uncertainty": "b",
    }
    assert upgrade_header(None) == {"members": "1"}


@pytest.mark.parametrize("card", [None, [], {"notes": 3}, {"notes": {"metrics": "none"}}])
def test_a_card_that_is_none_is_left_to_the_reader(card):
    assert upgrade_card(card) == card


def test_the_configuration_of_an_older_pretraining_run_is_read():
    old = {"pair_shares": [0.1, 0.3, 0.6], "atom_shares": [0.5, 0.5], "whole": [0.0, 0.2]}
    config = upgrade_pretrain_config({"blend": old | {"noise": 0.1}, "seed": 3})
    blend = from_dict(BlendConfig, config["blend"], "blend")
    assert blend == BlendConfig((0.1, 0.3, 0.6), (0.5, 0.5), unblended=(0.0, 0.2), noise=0.1)
    assert config["seed"] == 3
    today = json.loads(json.dumps(to_dict(blend)))
    assert upgrade_pretrain_config({"blend": today}) == {"blend": today}
    assert upgrade_pretrain_config({"seed": 3}) == {"seed": 3}
