"""Fine-tuning: from a table of measured molecules to a model file and test metrics."""

import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32
from rich.console import Console

from moleblend.chem.descriptors import molecule_features
from moleblend.config import check_type
from moleblend.data.dataset import MoleculeDataset
from moleblend.environment import describe_environment
from moleblend.errors import OutputError, SettingError
from moleblend.files import check_outputs
from moleblend.finetuning.callbacks import ShouldContinue
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.finished_members import (
    FinishedMembers,
    can_resume,
    holds_finished_members,
)
from moleblend.finetuning.hyperparameter_search import (
    Search,
    finish,
    is_unfinished,
    remove_record,
    require_optuna,
    search,
)
from moleblend.finetuning.preparation import PreparedRun, prepare_run
from moleblend.finetuning.refit import Refitted, refit
from moleblend.finetuning.results import TrainResult, aggregate_runs
from moleblend.finetuning.run import Run, train_and_test, train_model
from moleblend.finetuning.run_folder import RUN_FILES, reserved, write_run_folder
from moleblend.model.checkpoint import locate, save_model

__all__ = ["Run", "TrainConfig", "TrainResult", "train"]


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    errors: Literal["keep", "raise"] = "keep",
    console: Console | None = None,
) -> TrainResult:
    """Fine-tune a model on a table and write a run folder.

    The folder holds `model.safetensors`, `metrics.json`, `config.json`, `environment.json` (code,
    machine and duration), `log.csv` (one line per epoch) and `rows.csv` (set, status and reason of
    every row of the table). These files are written at the end. A search writes `search.csv` after
    each trial. The test set is evaluated once, after all choices are made.

    Args:
        config: settings of the run.
        resume: continue an interrupted run: its trained members are not trained again, and the
            result is the same. With a search, continue its trials, or add trials.
        errors: exclude rows without a usable molecule (`keep`), or raise an error.
        console: where progress and the resolved settings are printed.

    Raises:
        MissingFileError: the table or the source model does not exist.
        SettingError: no target is detected, a column is missing, most of its cells are not labels,
            or a set has no labels.
        MoleculeError: a row has no usable molecule and `errors` is "raise".
        TrainingError: the loss or a prediction is not finite.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM was received; no model is written.
    """
    check_type("config", config, TrainConfig)
    console = console or Console(stderr=True)
    environment, started = describe_environment(), time.monotonic()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    _check_run_folder(config, resume=resume)
    if config.search:
        require_optuna()
    if config.device == "cuda" and not torch.cuda.is_available():
        raise SettingError("got device=cuda, but torch finds no GPU")
    prepared = prepare_run(config, errors, say)
    has_auto_features = config.features == ("auto",) and bool(prepared.config.extra_features)
    config, data = prepared.config, prepared.data
    settings = prepared.settings(config, data)
    for sentence in prepared.describe(settings):
        say(sentence)
    with reserved(config.folder):
        search_result = None
        if config.search:
            search_result, data = _search_settings(
                prepared, say, search_features=has_auto_features, resume=resume
            )
            config = search_result.config
            settings = replace(prepared.settings(config, data), search=search_result.summary())
        finished = FinishedMembers(config, prepared.origin, say, resume=resume)
        try:
            started_from = replace(prepared, start=replace(prepared.start, finished=finished))
            runs = _train_runs(started_from, config, data, say, console)
        finally:
            finished.remove_if_empty()
        result = replace(
            aggregate_runs(config, settings, runs, prepared, data), search=search_result
        )
        if config.refit:
            result = replace(result, refitted=_refit(started_from, config, runs[0], data, console))
            say(f"the model of the file is trained again on all {len(data):,} labelled molecules")
        assert result.settings.uncertainty is not None
        for note in result.settings.uncertainty.notes:
            say(f"note: {note}")
        if search_result is None:
            remove_record(config.folder)
        seconds = round(time.monotonic() - started, 1)
        try:
            write_run_folder(
                result,
                prepared.start.target_columns,
                prepared.start.views,
                {**environment, "seconds": seconds},
            )
        except OSError as error:
            raise _not_written(error, finished, result) from error
        finished.remove()
        if search_result is not None:
            finish(config.folder)
    return result


def _refit(
    prepared: PreparedRun, config: TrainConfig, run: Run, data: MoleculeDataset, console: Console
) -> Refitted:
    """Train the model again on all usable rows; the rows of its domain count in the table."""
    refitted = refit(config, run, prepared.start, data, prepared.tree_plan, console)
    if refitted.domain is None:
        return refitted
    domain = replace(refitted.domain, rows=prepared.usable[refitted.domain.rows])
    return replace(refitted, domain=domain)


def _not_written(error: OSError, finished: FinishedMembers, result: TrainResult) -> OutputError:
    """Say where the weights of a run are whose files cannot be written."""
    if not finished.n_missing:
        return OutputError(
            f"{error}; the trained weights are kept: --resume writes the files when there is room"
        )
    path = Path(tempfile.gettempdir()) / f"moleblend-{secrets.token_hex(4)}.safetensors"
    try:
        save_model([member.model for member in result.runs[0].members], path)
    except OSError:
        return OutputError(f"{error}; there is no room for the weights in {path.parent} either")
    return OutputError(f"{error}; the weights of the first run are in {path}")


def _train_runs(
    prepared: PreparedRun,
    config: TrainConfig,
    data: MoleculeDataset,
    say: Callable[[str], None],
    console: Console,
) -> list[Run]:
    """Train on each fold, or with each seed."""
    runs = []
    for k, split in enumerate(prepared.splits):
        for repeat in range(config.seeds):
            if len(prepared.splits) * config.seeds > 1:
                fold = f"fold {k + 1} of {len(prepared.splits)}"
                say(fold if config.folds else f"seed {config.seed + repeat}")
            seed = config.seed + repeat * config.ensemble
            runs.append(
                train_and_test(
                    config, seed, prepared.start, data, split, prepared.tree_plan, console
                )
            )
    return runs


def _search_settings(
    prepared: PreparedRun,
    say: Callable[[str], None],
    *,
    search_features: bool,
    resume: bool,
) -> tuple[Search, MoleculeDataset]:
    """Search settings with the training and the validation set.

    Returns:
        The search, and the molecules with the extra features of the best trial.
    """
    config, start, data = prepared.config, prepared.start, prepared.data
    split = prepared.splits[0]
    smiles = [molecule.smiles for molecule in data.molecules]
    computed: dict[tuple[str, ...], Float32[np.ndarray, "n f"]] = {
        config.extra_features: data.features
    }

    def with_features(kinds: tuple[str, ...]) -> MoleculeDataset:
        if kinds not in computed and len(kinds) > 1:
            each = [with_features((kind,)).features for kind in kinds]
            computed[kinds] = np.concatenate(each, 1)
        elif kinds not in computed:
            computed[kinds] = molecule_features(smiles, kinds)
        return replace(data, features=computed[kinds])

    def attempt(trial_config: TrainConfig, should_continue: ShouldContinue) -> None:
        trial_data = with_features(trial_config.extra_features)
        train_model(
            trial_config,
            trial_config.seed,
            start,
            trial_data.subset(split.train),
            trial_data.subset(split.validation),
            Console(quiet=True),
            trial_config.pos_weight == "on",
            should_continue,
        )

    search_result = search(
        config,
        attempt,
        say,
        model=prepared.origin,
        has_classes=any(
            label_column.kind == "binary" for label_column in start.target_columns.label_columns
        ),
        search_features=search_features,
        resume=resume,
    )
    return search_result, with_features(search_result.config.extra_features)


def _check_run_folder(config: TrainConfig, *, resume: bool) -> None:
    """Refuse a run folder that cannot be used, before any work is done."""
    out = config.folder
    if out.exists() and not out.is_dir():
        raise SettingError(f"{out}: expected a folder, got a file")
    inputs = [config.data] if config.source == "scratch" else [config.data, locate(config.source)]
    check_outputs([out / name for name in RUN_FILES], inputs)
    if (out / "state.ckpt").exists():
        raise SettingError(f"{out} holds a pretraining run; use another --out")
    if resume:
        if not ((out / "search.csv").is_file() if config.search else can_resume(out)):
            raise SettingError(f"{out}: there is no search to resume, and no interrupted run")
        return
    if holds_finished_members(out):
        raise OutputError(
            f"{out} holds an unfinished run: continue it with --resume, or remove the folder"
        )
    if is_unfinished(out):
        raise SettingError(
            f"{out} holds an unfinished search: continue it with --resume, or remove the folder"
        )
    if not config.out and out.exists():
        raise SettingError(
            f"{out} already exists; choose another folder with --out, or name this one to "
            "overwrite it"
        )
