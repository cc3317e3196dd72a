import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from moleblend.cli.main import main
from moleblend.finetuning.callbacks import ShouldContinue
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.hyperparameter_search import NOTE, Search, search
from moleblend.finetuning.train import TrainResult, train
from moleblend.model import checkpoint
from tests.helpers.molecules import CHAINS, PARTS
from tests.helpers.runs import TINY


def write(path: Path, labels: list[float]) -> Path:
    rows = zip(CHAINS, labels, PARTS, strict=True)
    path.write_text("smiles,y,set\n" + "".join(f"{s},{y},{part}\n" for s, y, part in rows))
    return path


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    table = write(tmp_path / "chains.csv", [float(smiles.count("C")) for smiles in CHAINS])
    given = {"features": ("ecfp4",), "search": 12, "epochs": 8}
    return TrainConfig(str(table), ("y",), str(tmp_path / "run"), **given)


class FakeTraining:
    """A training whose score is known: best at a rate of 1e-3, without dropout, not frozen."""

    def __init__(self, interrupted_at: int = 0, fails: bool = False) -> None:
        self.tried: list[TrainConfig] = []
        self.n_epochs: list[int] = []
        self.interrupted_at, self.fails = interrupted_at, fails

    def __call__(self, config: TrainConfig, should_continue: ShouldContinue) -> None:
        self.tried.append(config)
        if len(self.tried) == self.interrupted_at:
            raise KeyboardInterrupt
        if self.fails or config.batch_size == 128:
            raise FloatingPointError("the loss\nis not finite")
        score = -abs(np.log10(config.learning_rate) + 3) - config.head_dropout - config.freeze
        for epoch in range(1, config.epochs + 1):
            if not should_continue(epoch, float(score) - 1 / epoch):
                break
        self.n_epochs.append(epoch)


def searched(
    config: TrainConfig,
    attempt: FakeTraining | None = None,
    *,
    search_features: bool = True,
    resume: bool = False,
) -> tuple[Search, list[str]]:
    lines: list[str] = []
    result = search(
        config,
        attempt or FakeTraining(),
        lines.append,
        model=None,
        has_classes=True,
        search_features=search_features,
        resume=resume,
    )
    return result, lines


def rows_of(config: TrainConfig) -> list[dict[str, str]]:
    with (config.folder / "search.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_time(result: Search) -> list:
    return [replace(trial, seconds=0.0) for trial in result.trials]


def test_the_first_trial_has_the_settings_that_came_and_the_best_is_kept(
    config: TrainConfig,
) -> None:
    attempt = FakeTraining()
    result, lines = searched(config, attempt)
    assert attempt.tried[0] == config
    assert len(attempt.tried) == len(result.trials) == 12
    done = [trial for trial in result.trials if trial.state == "done"]
    assert result.best.score == max(trial.score for trial in done) > result.trials[0].score
    assert result.config == attempt.tried[result.best.number - 1]
    assert result.best.score == result.best.scores[-1]
    assert lines[1].startswith("trial 1 of 12: learning_rate 0.0002, layer_decay 1, freeze False")
    assert f"search: trial {result.best.number} is the best" in lines[-1]
    assert NOTE in lines[-1]
    rows = rows_of(config)
    assert [row["trial"] for row in rows] == [str(k) for k in range(1, 13)]
    assert float(rows[result.best.number - 1]["score"]) == result.best.score
    assert result.summary()["score_of_trial_1"] == result.trials[0].score


def test_what_was_set_is_not_searched(config: TrainConfig) -> None:
    given = replace(config, learning_rate=3e-3, features=("descriptors",), search=6)
    attempt = FakeTraining()
    result, lines = searched(given, attempt, search_features=False)
    assert {tried.learning_rate for tried in attempt.tried} == {3e-3}
    assert {tried.features for tried in attempt.tried} == {("descriptors",)}
    assert len({tried.head_dropout for tried in attempt.tried}) == 6
    assert not {"learning_rate", "features"} & set(result.best.settings)
    assert "learning_rate" not in lines[0]


def test_only_questions_that_the_run_has_are_asked(config: TrainConfig) -> None:
    names = set(searched(replace(config, search=1))[0].best.settings)
    assert {"freeze", "pos_weight", "features", "layer_decay"} < names
    new = search(
        replace(config, search=1, source="scratch"),
        FakeTraining(),
        lambda _: None,
        model=None,
        has_classes=False,
        search_features=False,
    )
    assert names - set(new.best.settings) == {"freeze", "pos_weight", "features"}
    frozen = searched(replace(config, search=1, freeze=True))[0].best.settings
    assert not {"freeze", "layer_decay"} & set(frozen)
    every = {
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "head_dropout": 0.2,
        "ema": 0.5,
        "batch_size": 8,
        "pos_weight": "on",
        "freeze": True,
    }
    with pytest.raises(ValueError, match="there is nothing to search: all settings differ"):
        searched(replace(config, **every), search_features=False)


def test_weights_that_are_to_be_tried_are_tried_first(config: TrainConfig) -> None:
    attempt = FakeTraining()
    searched(replace(config, pos_weight="try"), attempt)
    assert attempt.tried[0] == replace(config, pos_weight="off")
    assert attempt.tried[1] == replace(config, pos_weight="on")
    assert "try" not in {tried.pos_weight for tried in attempt.tried}


def test_a_search_that_was_stopped_should_continue_as_if_it_had_not_been(
    config: TrainConfig, tmp_path: Path
) -> None:
    whole = searched(replace(config, search=16, out=str(tmp_path / "whole")))[0]
    assert {trial.state for trial in whole.trials} == {"done", "stopped", "failed"}
    lines: list[str] = []
    given = replace(config, search=16)
    with pytest.raises(KeyboardInterrupt):
        search(
            given, FakeTraining(9), lines.append, model=None, has_classes=True, search_features=True
        )
    assert lines[-1].startswith(f"8 trials are saved in {config.folder / 'search.csv'}; continue")
    assert len(rows_of(config)) == 8
    attempt = FakeTraining()
    result, lines = searched(given, attempt, resume=True)
    assert len(attempt.tried) == 8
    assert "continuing after 8 earlier trials" in lines
    assert without_time(result) == without_time(whole)
    assert result.best.number == whole.best.number


def test_trials_follow_from_the_seed(config: TrainConfig) -> None:
    one, same = (without_time(searched(config)[0]) for _ in range(2))
    other = without_time(searched(replace(config, seed=1))[0])
    assert one == same != other
    assert one[0] == other[0]


def test_a_trial_that_is_behind_is_stopped_after_half_of_the_epochs(config: TrainConfig) -> None:
    attempt = FakeTraining()
    result, lines = searched(replace(config, search=16), attempt)
    stopped = [trial for trial in result.trials if trial.state == "stopped"]
    assert stopped
    assert all(trial.number > 5 for trial in stopped)
    assert all(4 <= len(trial.scores) < 8 for trial in stopped)
    assert any("stopped: below the median" in line for line in lines)
    assert all(len(t.scores) == 8 for t in result.trials if t.state == "done")
    assert min(attempt.n_epochs) == min(len(trial.scores) for trial in stopped)


def test_a_trial_that_diverges_is_no_end(config: TrainConfig) -> None:
    result, lines = searched(config)
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert failed
    assert {trial.settings["batch_size"] for trial in failed} == {128}
    assert {trial.reason for trial in failed} == {"the loss is not finite"}
    assert sum("failed, the loss is not finite" in line for line in lines) == len(failed)
    with pytest.raises(
        ValueError,
        match="all 3 trials failed or were stopped; reason of the first: the loss is",
    ):
        searched(replace(config, search=3), FakeTraining(fails=True))


def test_trials_of_other_data_or_settings_are_not_gone_on_with(config: TrainConfig) -> None:
    first, _ = searched(replace(config, search=3))
    more, _ = searched(replace(config, search=5, ensemble=2), resume=True)
    assert without_time(more)[:3] == without_time(first)
    with pytest.raises(ValueError, match="cannot be resumed, since these settings differ: epochs;"):
        searched(replace(config, epochs=9), resume=True)
    write(Path(config.data), [1.0] * 60)
    with pytest.raises(ValueError, match="cannot be resumed, since these settings differ: data;"):
        searched(config, resume=True)


def test_a_search_of_an_earlier_version_is_resumed(config: TrainConfig) -> None:
    """The names of settings and columns have changed since."""
    whole, _ = searched(replace(config, search=5, out=str(config.folder.parent / "whole")))
    searched(replace(config, search=3))
    origin = config.folder / "search.json"
    origin.write_text(origin.read_text().replace('"qualifier"', '"relation"'))
    trials = config.folder / "search.csv"
    head, rows = trials.read_text().split("\n", 1)
    assert head.split(",")[2] == "score"
    assert head.split(",")[-2] == "scores"
    trials.write_text(head.replace("score", "figure") + "\n" + rows)
    result, lines = searched(replace(config, search=5), resume=True)
    assert "continuing after 3 earlier trials" in lines
    assert without_time(result) == without_time(whole)


def test_without_optuna(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"--search needs Optuna: pip install 'moleblend\[search"):
        train(config)
    assert not config.folder.exists()


@pytest.fixture
def small(config: TrainConfig) -> TrainConfig:
    return replace(
        config,
        source="scratch",
        split="set",
        features=("auto",),
        search=3,
        epochs=2,
        device="cpu",
        encoder=TINY,
    )


def run(config: TrainConfig, *, resume: bool = False) -> TrainResult:
    return train(config, resume=resume, console=Console(quiet=True))


def test_a_run_keeps_what_its_search_found(small: TrainConfig) -> None:
    result = run(replace(small, seeds=2, seed=3))
    assert result.search is not None
    best = result.search.best
    assert best.number > 1
    assert len(rows_of(small)) == 3
    assert result.config == replace(result.search.config, seeds=2)
    # The best trial is trained again and has the same score.
    assert -best.score == pytest.approx(
        min(e["validation"] for e in result.histories[0].epochs), abs=1e-9
    )
    kept = checkpoint.load(result.model).config
    assert kept.head_dropout == best.settings["head_dropout"]
    assert " ".join(kept.features) == best.settings["features"].replace("none", "")
    saved = json.loads((small.folder / "config.json").read_text())
    assert saved["learning_rate"] == best.settings["learning_rate"]
    assert saved["settings"]["search"]["best_settings"] == best.settings
    assert saved["settings"]["features"] == list(kept.features)
    assert "duplicates" in saved["settings"]
    assert len(result.runs) == 2
    assert all(one.members[0].model.config.head_dropout == kept.head_dropout for one in result.runs)


def test_features_that_were_named_are_not_searched(small: TrainConfig) -> None:
    for features in ("none",), ("ecfp4",):
        result = run(replace(small, features=features, search=1)).search
        assert result is not None
        assert "features" not in result.best.settings
        assert result.config.features == features


def test_the_test_part_has_no_influence_on_a_search(small: TrainConfig) -> None:
    result = run(small).search
    labels = [
        -50.0 if part == "test" else float(smiles.count("C"))
        for smiles, part in zip(CHAINS, PARTS, strict=True)
    ]
    write(Path(small.data), labels)
    again = run(small).search
    assert result is not None
    assert again is not None
    assert without_time(result) == without_time(again)


def test_a_folder_with_an_unfinished_search(small: TrainConfig) -> None:
    result = run(small)
    result.model.unlink()  # as a kill before the end leaves it
    with pytest.raises(ValueError, match="holds an unfinished search: continue it with --resume"):
        run(small)
    with pytest.raises(ValueError, match="holds an unfinished search"):
        run(replace(small, search=0))
    with pytest.raises(ValueError, match="there is no search to resume"):
        run(replace(small, search=0), resume=True)
    again = run(small, resume=True)
    assert again.test == result.test
    run(replace(small, search=0))  # a model without a search does not keep its record
    assert not list(small.folder.glob("search.*"))
    with pytest.raises(ValueError, match="there is no search to resume"):
        run(small, resume=True)


def test_an_old_model_does_not_hide_an_unfinished_search(
    small: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(replace(small, search=0))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("moleblend.finetuning.train.train_and_test", killed)
        with pytest.raises(KeyboardInterrupt):
            run(small)
    with pytest.raises(ValueError, match="holds an unfinished search"):
        run(small)
    assert run(small, resume=True).search is not None
    run(small)


def test_the_command(
    small: TrainConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(small.folder.parent)
    given = ["train", small.data, "--split", "set", "--from", "scratch", "--epochs", "1"]
    given += ["--encoder.width", "16", "--encoder.ffn-width", "16", "--encoder.n-layers", "1"]
    given += ["--encoder.n-heads", "2", "--target", "y", "--search", "2"]
    assert main(given) == 0
    assert "trial 2 of 2: learning_rate" in capfd.readouterr().err
    assert main(given) == 2
    assert "already exists" in capfd.readouterr().err
    assert main([*given[:-1], "3", "--resume"]) == 0
    printed = capfd.readouterr().err
    assert "continuing after 2 earlier trials" in printed
    assert "trial 3 of 3" in printed
    page = Path("runs/chains/report.html").read_text()
    assert "Search of the settings" in page
