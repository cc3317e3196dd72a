"""Settings tried one after the other, judged on validation, and the best of them kept.

Optuna, an extra of the package, proposes them. Each trial stands in `search.csv` of the run folder
as soon as it is over. A proposal follows from the trials before it, the seed and its number alone,
so a search that was killed goes on from these rows as if it had never been stopped.
"""

import csv
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from moleblend.config import to_dict
from moleblend.files import alone_with, file_sha256, replacing
from moleblend.finetuning.config import TrainConfig

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SavedState = Literal["done", "stopped", "failed"]
"""A trial is stopped when it falls behind the others, and has failed when its loss diverged."""

GoesOn = Callable[[int, float], bool]
"""Is told the epoch and the figure of what is kept so far; says whether to go on."""

TRIALS, ORIGIN = "search.csv", "search.json"
"""Files in the run folder: the trials, and what they are a function of."""

_IS_FINISHED = "is_finished"

FIGURE = (
    "the figure, of which more is better, is the mean ROC-AUC of the classes less the mean RMSE of "
    "the values in standard deviations, whichever there are"
)
"""What a trial is judged by on validation; where neither is defined it is the negative loss."""

NOTE = (
    "the winner's validation figure is the best of many on the same molecules, so new ones will be "
    "predicted worse than it says; what is said of sureness is fitted to these molecules too; the "
    "test part is read once, by the model that is kept"
)

_UNCHANGED = (
    *("data", "source", "out", "search", "seeds", "ensemble", "keep_training_smiles", "forest"),
)
"""Settings that do not change what a trial finds, or whose files are known by their hash."""


@dataclass(frozen=True)
class Trial:
    """One training with settings that were proposed.

    Attributes:
        number: counted from 1.
        settings: by the names of `TrainConfig`; `features` is one text.
        state: how it ended.
        figures: after each epoch, of the weights that are kept so far, see `FIGURE`.
        seconds: it took.
        reason: why it failed.
    """

    number: int
    settings: dict[str, Any]
    state: SavedState
    figures: tuple[float, ...]
    seconds: float
    reason: str = ""

    @property
    def figure(self) -> float:
        """Of the weights that were kept; NaN where there was no epoch."""
        return self.figures[-1] if self.figures else float("nan")


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        config: with the settings of the best trial.
        trials: in their order; the first has the settings that came.
        best: of those that came to an end.
    """

    config: TrainConfig
    trials: tuple[Trial, ...]
    best: Trial

    def account(self) -> dict[str, Any]:
        """Say what was done, as JSON knows it."""
        states = [trial.state for trial in self.trials]
        return {
            "trials": len(states),
            **{state: states.count(state) for state in ("done", "stopped", "failed")},
            "best": self.best.number,
            "figure": self.best.figure,
            "figure_of_trial_1": self.trials[0].figure if self.trials[0].figures else None,
            "found": self.best.settings,
            "note": NOTE,
        }


def require_optuna() -> None:
    """Make sure that settings can be searched.

    Raises:
        ValueError: Optuna is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ValueError("--search needs Optuna: pip install 'moleblend[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def is_unfinished(folder: Path) -> bool:
    """Whether a search was begun in a run folder and no run came of it."""
    origin, model = folder / ORIGIN, folder / "model.safetensors"
    if not origin.is_file():
        return False
    told = json.loads(origin.read_text(encoding="utf-8"))
    return not (told.get(_IS_FINISHED, True) and model.is_file())


def finish(folder: Path) -> None:
    """Remember that a run came of the search in a run folder."""
    told = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    _write_origin(folder, told | {_IS_FINISHED: True})


def forget(folder: Path) -> None:
    """Remove the record of a search, which the next run in this folder would contradict."""
    for name in (TRIALS, ORIGIN):
        (folder / name).unlink(missing_ok=True)


def search(
    config: TrainConfig,
    attempt: Callable[[TrainConfig, GoesOn], None],
    say: Callable[[str], None],
    *,
    model: Path | None,
    has_classes: bool,
    has_features: bool,
    resume: bool = False,
) -> Search:
    """Try `config.search` settings and keep the best.

    The first trial has the settings that came. What differs from `TrainConfig`'s defaults was
    chosen by the user and is kept; only `pos_weight="try"` asks for a search of its own. Once
    five trials have come to an end, one that is behind their median at the same epoch is stopped,
    after half of the epochs.

    Args:
        config: of the run.
        attempt: trains on the training part, judged on validation; it tells each epoch, and stops
            when it is told to.
        say: where each trial is told.
        model: the file that is started from; None for random weights.
        has_classes: there is a binary target, so `pos_weight` is a question.
        has_features: which features are joined is a question.
        resume: go on with the trials in the run folder.

    Raises:
        ValueError: Optuna is not installed, nothing is left to be searched, the trials in the
            folder were of other data or settings, or none came to an end.
    """
    require_optuna()
    space = _space(config, has_classes=has_classes, has_features=has_features)
    if not space:
        raise ValueError("nothing is left to be searched: all settings were given")
    kept = config.folder / TRIALS
    with alone_with(kept):
        trials = _begun(config, model, space) if resume else []
        if not resume:
            forget(config.folder)
        _write_origin(config.folder, _origin(config, model, space) | {_IS_FINISHED: False})
        if not resume:
            _write(trials, space, kept)
        searched = ", ".join(f"{name} ({_told(asked)})" for name, asked in space.items())
        say(f"search: {config.search} trials over {searched}; {FIGURE}")
        if trials:
            say(f"{len(trials)} trials were there from before")
        study = _study(config)
        for trial in trials:
            study.add_trial(_frozen(trial, space))
        for number in range(len(trials) + 1, config.search + 1):
            try:
                trials.append(_tried(config, number, study, space, attempt))
            except KeyboardInterrupt:
                say(f"{len(trials)} trials are kept in {kept}; --resume goes on with them")
                raise
            _write(trials, space, kept)
            say(_line(trials, config.search))
    done = [trial for trial in trials if trial.state == "done"]
    if not done:
        raise ValueError(
            f"none of the {len(trials)} trials came to an end; the first says: {trials[0].reason}"
        )
    best = max(done, key=lambda trial: trial.figure)
    found = Search(_applied(config, best.settings), tuple(trials), best)
    say(f"search: trial {best.number} is the best, {_settings(best)}; {NOTE}")
    return found


def _space(
    config: TrainConfig, *, has_classes: bool, has_features: bool
) -> dict[str, "BaseDistribution"]:
    """Give what each setting may be; what the user has set is not searched."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    space: dict[str, BaseDistribution] = {
        "learning_rate": FloatDistribution(3e-5, 5e-3, log=True),
        "layer_decay": FloatDistribution(0.6, 1.0),
        "freeze": CategoricalDistribution((False, True)),
        "features": CategoricalDistribution(("none", "ecfp4", "descriptors", "ecfp4 descriptors")),
        "pos_weight": CategoricalDistribution(("off", "on")),
        "batch_size": CategoricalDistribution((16, 32, 64, 128)),
        "head_dropout": FloatDistribution(0.0, 0.5),
        "weight_decay": FloatDistribution(1e-4, 1.0, log=True),
        "ema": CategoricalDistribution((0.0, 0.9, 0.99)),
    }
    usual = TrainConfig(config.data)
    # Features are settled by now, so they differ from the default even where nobody named them.
    left_out = set() if has_features else {"features"}
    left_out |= {
        name
        for name in space
        if name != "features" and getattr(config, name) != getattr(usual, name)
    }
    if config.pos_weight == "try":
        left_out.discard("pos_weight")
    if not has_classes:
        left_out.add("pos_weight")
    if config.source == "scratch":  # random vectors, frozen, are no start
        left_out.add("freeze")
    if config.freeze:
        left_out.add("layer_decay")
    return {name: asked for name, asked in space.items() if name not in left_out}


def _told(asked: "BaseDistribution") -> str:
    """Say what a setting may be."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(asked, CategoricalDistribution):
        return ", ".join(map(str, asked.choices))
    assert isinstance(asked, FloatDistribution)
    return f"{asked.low:g} to {asked.high:g}"


def _study(config: TrainConfig) -> "Study":
    """Begin a study that stops trials behind the median, after half of the epochs."""
    import optuna

    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=config.epochs // 2)
    return optuna.create_study(direction="maximize", pruner=pruner)


def _starts(config: TrainConfig, space: dict[str, "BaseDistribution"]) -> list[dict[str, Any]]:
    """Give the settings of the first trials: those that came; with `try`, in both ways."""
    came = {name: getattr(config, name) for name in space}
    if "features" in came:
        came["features"] = " ".join(config.features)
    ways = ("off", "on") if config.pos_weight == "try" and "pos_weight" in came else ()
    return [came | {"pos_weight": way} for way in ways] or [came]


def _tried(
    config: TrainConfig,
    number: int,
    study: "Study",
    space: dict[str, "BaseDistribution"],
    attempt: Callable[[TrainConfig, GoesOn], None],
) -> Trial:
    """Ask for settings, train with them and tell the study how that went."""
    import optuna

    starts = _starts(config, space)
    if number <= len(starts):
        study.enqueue_trial(starts[number - 1])
    seed = np.random.SeedSequence([config.seed, number]).generate_state(1)[0]
    study.sampler = optuna.samplers.TPESampler(seed=int(seed))
    trial, figures, is_behind = study.ask(space), [], False

    def goes_on(epoch: int, figure: float) -> bool:
        nonlocal is_behind
        figures.append(figure)
        trial.report(figure, epoch)
        is_behind = trial.should_prune()
        return not is_behind

    state, reason, began = "done", "", time.monotonic()
    try:
        attempt(_applied(config, trial.params), goes_on)
    except (FloatingPointError, torch.OutOfMemoryError) as error:
        state, reason = "failed", " ".join(str(error).split())
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        if is_behind:
            state = "stopped"
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, figures[-1])
    seconds = round(time.monotonic() - began, 1)
    return Trial(number, dict(trial.params), state, tuple(figures), seconds, reason)


def _applied(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    """Put settings into a configuration."""
    given = dict(settings)
    if "features" in given:
        given["features"] = tuple(given["features"].split())
    return replace(config, **given)


def _frozen(trial: Trial, space: dict[str, "BaseDistribution"]) -> "FrozenTrial":
    """Give a trial from before as Optuna remembers it."""
    from optuna.trial import TrialState, create_trial

    states = {"done": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
    return create_trial(
        state=states[trial.state],
        # A failed trial has no value; that of a stopped one is, as Optuna has it, its last figure.
        value=None if trial.state == "failed" else trial.figure,
        params=trial.settings,
        distributions=space,
        intermediate_values=dict(enumerate(trial.figures, 1)),
    )


def _origin(config: TrainConfig, model: Path | None, space: Iterable[str]) -> dict[str, Any]:
    """All that the trials are a function of, beside their number."""
    settings = {key: value for key, value in to_dict(config).items() if key not in _UNCHANGED}
    told = {
        "data": file_sha256(Path(config.data)),
        "from": "scratch" if model is None else file_sha256(model),
        **settings,
        "searched": list(space),
    }
    return json.loads(json.dumps(told))


def _write_origin(folder: Path, told: dict[str, Any]) -> None:
    with replacing(folder / ORIGIN) as temporary:
        temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _begun(
    config: TrainConfig, model: Path | None, space: dict[str, "BaseDistribution"]
) -> list[Trial]:
    """Read the trials from before, if they were of the same data and settings."""
    path = config.folder / ORIGIN
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    told.pop(_IS_FINISHED, None)
    origin = _origin(config, model, space)
    changed = [name for name in {**told, **origin} if told.get(name) != origin.get(name)]
    if changed:
        raise ValueError(
            f"{config.folder}: a resumed search goes on as it began, but these differ: "
            f"{', '.join(changed)}; without --resume and with another --out it begins anew"
        )
    with (config.folder / TRIALS).open(newline="", encoding="utf-8") as file:
        return [_read(row, space) for row in csv.DictReader(file)][: config.search]


def _read(row: dict[str, str], space: dict[str, "BaseDistribution"]) -> Trial:
    """Read a row of `search.csv`."""
    from optuna.distributions import CategoricalDistribution

    settings: dict[str, Any] = {}
    for name, asked in space.items():
        if isinstance(asked, CategoricalDistribution):
            settings[name] = {str(choice): choice for choice in asked.choices}[row[name]]
        else:
            settings[name] = float(row[name])
    state = {"done": "done", "stopped": "stopped", "failed": "failed"}[row["state"]]
    figures = tuple(float(text) for text in row["figures"].split())
    return Trial(int(row["trial"]), settings, state, figures, float(row["seconds"]), row["reason"])


def _write(trials: Sequence[Trial], space: Iterable[str], path: Path) -> None:
    """Write all trials, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        head = ("trial", "state", "figure", "epochs", "seconds", *space, "figures", "reason")
        writer.writerow(head)
        for trial in trials:
            values = [trial.settings[name] for name in space]
            figures = " ".join(map(repr, trial.figures))
            told = [trial.number, trial.state, trial.figures[-1] if trial.figures else ""]
            told += [len(trial.figures), trial.seconds, *values, figures, trial.reason]
            writer.writerow(told)


def _settings(trial: Trial) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.settings.items()
    )


def _line(trials: Sequence[Trial], n_trials: int) -> str:
    """Say how the last trial went."""
    last = trials[-1]
    said = f"trial {last.number} of {n_trials}: {_settings(last)}: "
    if last.state == "failed":
        return f"{said}failed, {last.reason}"
    ended = "" if last.state == "done" else ", stopped: behind the others"
    done = [trial for trial in trials if trial.state == "done"]
    best = max(done, key=lambda trial: trial.figure, default=last)
    so_far = "the best so far" if best is last else f"trial {best.number} has {best.figure:.4f}"
    return (
        f"{said}{last.figure:.4f} after epoch {len(last.figures)}{ended} "
        f"({last.seconds:.0f} s; {so_far})"
    )
