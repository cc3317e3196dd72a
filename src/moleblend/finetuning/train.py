"""Fine-tuning: a table of measured molecules in, a model file with honest test figures out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32
from rich.console import Console

from moleblend.chem.descriptors import molecule_features
from moleblend.data.dataset import MoleculeDataset
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.hyperparameter_search import (
    GoesOn,
    Search,
    finish,
    forget,
    is_unfinished,
    require_optuna,
    search,
)
from moleblend.finetuning.preparation import Prepared, prepared
from moleblend.finetuning.results import TrainResult, aggregate_runs
from moleblend.finetuning.run import Run, train_and_test, train_model
from moleblend.finetuning.run_folder import reserved, write_run_folder

__all__ = ["Run", "TrainConfig", "TrainResult", "train"]


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    errors: Literal["keep", "raise"] = "keep",
    console: Console | None = None,
) -> TrainResult:
    """Fine-tune a model on a table and leave a run folder.

    The folder holds `model.safetensors`, `metrics.json`, `config.json`, `log.csv` (per epoch) and
    `rows.csv` (part, status and reason of every row of the file); it is written when all is done,
    but for `search.csv`, which has each trial of a search as soon as it is over. The test part is
    read once, after all choices.

    Args:
        config: the run.
        resume: go on with the trials of a search that was stopped, or add some.
        errors: a row without a usable molecule is told and left out, or raises an error.
        console: where progress and every choice is shown.

    Raises:
        FileNotFoundError: the table or the source is not there.
        ValueError: no target is clear, a column is missing, most of its cells are no labels, or a
            part is left without labels.
        MoleculeError: a row has no usable molecule and `errors` is "raise".
        FloatingPointError: the loss is no longer a number.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM came; no model is written then.
    """
    console = console or Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    _check_out(config, resume=resume)
    if config.search:
        require_optuna()
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but there is no GPU that torch can use")
    known = prepared(config, errors, say)
    may_search_features = config.features == ("auto",) and bool(known.config.joined)
    config, data = known.config, known.data
    choices = known.choices(config, data)
    for sentence in known.describe(choices):
        say(sentence)
    with reserved(config.folder):
        found = None
        if config.search:
            found, data = _searched(known, say, has_features=may_search_features, resume=resume)
            config = found.config
            choices = known.choices(config, data) | {"search": found.account()}
        runs = _runs(known, config, data, say, console)
        result = aggregate_runs(
            config,
            runs,
            data,
            known.usable,
            known.rows,
            choices,
            known.start.target_columns.values,
            known.duplicates,
            known.forest_note,
        )
        result = replace(result, search=found)
        for note in choices["sureness"]["notes"]:
            say(f"note: {note}")
        if found is None:
            forget(config.folder)
        write_run_folder(result, known.start.target_columns, known.start.views)
        if found is not None:
            finish(config.folder)
    return result


def _runs(
    known: Prepared,
    config: TrainConfig,
    data: MoleculeDataset,
    say: Callable[[str], None],
    console: Console,
) -> list[Run]:
    """Train on each fold, or with each seed."""
    runs = []
    for k, split in enumerate(known.splits):
        for repeat in range(config.seeds):
            if len(known.splits) * config.seeds > 1:
                fold = f"fold {k + 1} of {len(known.splits)}"
                say(fold if config.folds else f"seed {config.seed + repeat}")
            seed = config.seed + repeat * config.ensemble
            runs.append(
                train_and_test(config, seed, known.start, data, split, known.n_trees, console)
            )
    return runs


def _searched(
    known: Prepared,
    say: Callable[[str], None],
    *,
    has_features: bool,
    resume: bool,
) -> tuple[Search, MoleculeDataset]:
    """Search settings on the training and the validation part.

    Returns:
        What was found, and the molecules with the features that it joins to them.
    """
    config, start, data, split = known.config, known.start, known.data, known.splits[0]
    smiles = [molecule.smiles for molecule in data.molecules]
    joined: dict[tuple[str, ...], Float32[np.ndarray, "n f"]] = {config.joined: data.features}

    def with_features(kinds: tuple[str, ...]) -> MoleculeDataset:
        if kinds not in joined and len(kinds) > 1:
            alone = [with_features((kind,)).features for kind in kinds]
            joined[kinds] = np.concatenate(alone, 1)
        elif kinds not in joined:
            joined[kinds] = molecule_features(smiles, kinds)
        return replace(data, features=joined[kinds])

    def attempt(settled: TrainConfig, goes_on: GoesOn) -> None:
        given = with_features(settled.joined)
        parts = given.subset(split.train), given.subset(split.validation)
        is_weighted = settled.pos_weight == "on"
        quiet = Console(quiet=True)
        train_model(settled, settled.seed, start, *parts, quiet, is_weighted, goes_on)

    found = search(
        config,
        attempt,
        say,
        model=known.origin,
        has_classes=any(
            label_column.kind == "binary" for label_column in start.target_columns.label_columns
        ),
        has_features=has_features,
        resume=resume,
    )
    return found, with_features(found.config.joined)


def _check_out(config: TrainConfig, *, resume: bool) -> None:
    """Refuse a folder that cannot be written to, before any work is done."""
    out = config.folder
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: this is a file, a folder was expected")
    if (out / "state.ckpt").exists():
        raise ValueError(f"{out} holds a pretraining run, another --out keeps it whole")
    if resume:
        if not (config.search and (out / "search.csv").is_file()):
            raise ValueError(f"{out}: there is no search to be resumed")
        return
    if is_unfinished(out):
        raise ValueError(
            f"{out} holds an unfinished search: --resume goes on with it, removing the folder "
            "begins anew"
        )
    if not config.out and out.exists():
        raise ValueError(f"{out} is there already; --out names another folder, or this one again")
