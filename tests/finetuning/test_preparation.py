from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from moleblend.chem.molecule import MoleculeError
from moleblend.data.splits import SPLITS
from moleblend.finetuning import preparation
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.preparation import PreparedRun, prepare_run
from tests.helpers.molecules import CHAINS
from tests.helpers.runs import TINY

RINGS = [f"C1{'C' * n}C1{'C' * m}" for n in range(1, 9) for m in range(4)]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    path = write(tmp_path / "chains.csv", CHAINS)
    return TrainConfig(data=str(path), source="scratch", split="random", encoder=TINY)


def write(path: str | Path, smiles: list[str], labels: dict[int, str] | None = None) -> Path:
    """Write a csv file of SMILES and a number of each; some labels may be others."""
    given = labels or {}
    lines = [f"{text},{given.get(k, str(k * 7 % 11 + k / 10))}" for k, text in enumerate(smiles)]
    Path(path).write_text("\n".join(["smiles,y", *lines]) + "\n")
    return Path(path)


def read(config: TrainConfig) -> tuple[PreparedRun, str]:
    """Prepare a run; give it, and all that is output of it."""
    lines: list[str] = []
    run = prepare_run(config, "keep", lines.append)
    return run, "\n".join([*lines, *run.describe(run.settings(run.config, run.data))])


def canonical(run: PreparedRun) -> list[str]:
    return [molecule.smiles for molecule in run.data.molecules]


@pytest.mark.parametrize("kind", ["scaffold", "balanced", "cluster"])
def test_splits_are_those_of_the_usable_rows(config: TrainConfig, kind: str) -> None:
    write(config.data, ["nonsense", *CHAINS[:4], *RINGS])
    run, _ = read(replace(config, split=kind, seed=3))
    (split,) = run.splits
    expected = SPLITS[kind](canonical(run), (0.8, 0.1, 0.1), 3)
    assert run.usable.tolist() == list(range(1, 5 + len(RINGS)))
    for set_name in ("train", "validation", "test"):
        assert getattr(split, set_name).tolist() == getattr(expected, set_name).tolist()


def test_folds_test_every_usable_row_once(config: TrainConfig) -> None:
    write(config.data, ["nonsense", *CHAINS], {5: "high"})
    run, output = read(replace(config, folds=4))
    tested = sorted(row for split in run.splits for row in split.test)
    assert tested == list(range(len(CHAINS) - 1))
    assert "4 folds (random) of 14 to 15 molecules, each used once as the test" in output
    write(config.data, CHAINS)
    assert (
        "4 folds (random) of 15 molecules, each used once as the test"
        in read(replace(config, folds=4))[1]
    )


def test_a_molecule_without_a_scaffold_is_named_by_its_row(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(config.data, ["nonsense", *CHAINS])
    monkeypatch.setattr(preparation, "is_readable", lambda smiles: smiles != "CCCO")
    row = CHAINS.index("CCCO") + 2
    with pytest.raises(ValueError, match=rf"row {row} \(line {row + 1}\): RDKit cannot parse"):
        read(replace(config, split="scaffold", features=("none",)))


def test_rows_without_a_molecule_raise_where_this_is_asked(config: TrainConfig) -> None:
    write(config.data, ["C" * 600, *CHAINS])
    with pytest.raises(MoleculeError, match=r"row 1 \(line 2\): 600 atoms, the model takes"):
        prepare_run(config, "raise", print)


def test_rows_that_are_left_out_are_counted_with_the_first(config: TrainConfig) -> None:
    write(config.data, ["nonsense", *CHAINS, "C1CC"], {1: ""})
    run, output = read(config)
    assert "excluded rows with status invalid: 2; the first is row 1 (line 2): " in output
    assert (
        "excluded rows with status no_label: 1; the first is row 2 (line 3): no target has a label"
        in output
    )
    assert [row.status for row in run.rows[:3]] == ["invalid", "no_label", "ok"]
    assert len(run.data) == len(run.usable) == len(CHAINS) - 1


def test_a_note_on_the_file_is_said_before_an_error(config: TrainConfig) -> None:
    Path(config.data).write_text("smiles;y\nC;high\nCC;low\nCCC;12\n")
    lines: list[str] = []
    with pytest.raises(ValueError, match="no column looks measured"):
        prepare_run(config, "keep", lines.append)
    assert lines == [f"{config.data}: read with semicolons as delimiters"]


@pytest.mark.parametrize(
    ("features", "views", "unreadable", "expected", "note"),
    [
        ("auto", "2d", "", ("ecfp4",), ""),
        ("none", "2d", "", (), ""),
        ("auto", "3d", "", (), ""),
        (
            *("auto", "2d", "CCCO", ()),
            "RDKit cannot parse the SMILES of 1 usable rows, such as CCCO",
        ),
    ],
)
def test_the_default_extra_features(
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    features: Literal["auto", "none"],
    views: Literal["2d", "3d"],
    unreadable: str,
    expected: tuple[str, ...],
    note: str,
) -> None:
    monkeypatch.setattr(preparation, "is_readable", lambda smiles: smiles != unreadable)
    write(config.data, CHAINS[:20])
    conformers = 1 if views == "3d" else 0
    config = replace(config, features=(features,), views=views, conformers=conformers)
    run, output = read(config)
    assert run.config.features == (expected or ("none",))
    assert run.data.features.shape == (20, 2048 if expected else 0)
    assert f"views: {views}; extra features: {' and '.join(expected) or 'none'}" in output
    assert run.settings(run.config, run.data).features == expected
    assert ("no fingerprints are used" in output) == bool(note)
    assert note in output


def test_targets_without_labels_in_training_are_left_out(tmp_path):
    rows = ["smiles,a,b,part"]
    for k in range(1, 31):
        part = "train" if k <= 20 else "valid" if k <= 25 else "test"
        rows.append(f"{'C' * k}O,{k % 2},{k % 2 if k > 20 else ''},{part}")
    path = tmp_path / "in.csv"
    path.write_text("\n".join(rows) + "\n")
    messages = []
    config = TrainConfig(data=str(path), target=("a", "b"), split="part", forest=0)
    prepared = prepare_run(config, "keep", messages.append)
    assert [column.name for column in prepared.start.target_columns.label_columns] == ["a"]
    assert prepared.data.labels.shape == (30, 1)
    assert "1 column is left out: 'b' has no label in the training set" in messages


def test_a_misspelt_split_or_column_names_the_closest_one(config: TrainConfig) -> None:
    with pytest.raises(
        ValueError, match=r"split='scafold' \(did you mean 'scaffold'\?\), expected"
    ):
        read(replace(config, split="scafold"))
    with pytest.raises(ValueError, match=r"split='part', expected one of"):  # nothing is close
        read(replace(config, split="part"))
    with pytest.raises(ValueError, match=r"no column 'smile' \(did you mean 'smiles'\?\)"):
        read(replace(config, smiles="smile"))
