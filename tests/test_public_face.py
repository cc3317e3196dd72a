import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import moleblend
from moleblend.data.targets import Target
from moleblend.model.heads import Model, ModelConfig
from tests.helpers.runs import TINY


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch has another OpenMP")
@pytest.mark.parametrize(
    ("settings", "spin_count"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_threads_sleep_soon_unless_the_environment_says_otherwise(
    settings: dict[str, str], spin_count: str
) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    script = "from moleblend import MoleBlendRegressor"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**kept, "OMP_DISPLAY_ENV": "VERBOSE", **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    # the setting that OpenMP has read; scikit-learn brings one of its own
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)) == {spin_count}


def test_importing_the_package_imports_nothing_heavy() -> None:
    """It takes 0.1 s where torch alone takes seconds."""
    heavy = {"torch", "numpy", "rdkit", "sklearn", "scipy", "pyarrow", "pytorch_lightning", "tyro"}
    script = f"import sys, moleblend; print({heavy!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done


def test_every_public_name_is_there_and_documented() -> None:
    assert set(moleblend.__all__) <= set(dir(moleblend))
    for name in set(moleblend.__all__) - {"__version__"}:
        public = getattr(moleblend, name)
        assert public.__name__ == name
        assert public.__doc__
    with pytest.raises(AttributeError, match="module 'moleblend' has no attribute 'trian'"):
        moleblend.trian  # noqa: B018


def test_the_public_functions_work_together(tmp_path: Path) -> None:
    smiles = ["c1ccccc1O", "not a molecule", "CCO", "c1ccncc1", "", "CCN", "C1CCCCC1"]
    split = moleblend.scaffold_split(smiles)
    assert split.excluded.tolist() == [1, 4]
    rows = np.concatenate([split.train, split.validation, split.test])
    assert sorted(rows.tolist()) == [0, 2, 3, 5, 6]
    torch.manual_seed(0)
    config = ModelConfig(encoder=TINY, targets=(Target("y", "regression"),))
    path = tmp_path / "model.safetensors"
    moleblend.save_model(Model(config).eval(), path)
    assert moleblend.load_model(path).config == config
    predicted = moleblend.Predictor(path).predict([smiles[row] for row in rows], views="2d")
    assert predicted.column("status").to_pylist() == ["ok"] * 5
    assert moleblend.embed(["CCO"], model=path, views="2d").shape == (1, TINY.width)
    assert moleblend.read_smiles("OCC").smiles == "CCO"
