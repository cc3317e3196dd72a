"""Hyperparameter search section of a training report."""

from dataclasses import dataclass

from moleblend.finetuning.hyperparameter_search import NOTE, SCORE, Search, Trial
from moleblend.reports.html_page import Table, format_number
from moleblend.reports.plots import (
    BLUE,
    GREY,
    ORANGE,
    Plot,
    add_legend,
    finish_plot,
    new_axes,
    or_a_note,
)

_MOST_TRIALS = 10


@dataclass(frozen=True)
class SearchSection:
    """What a search tried.

    Attributes:
        n_trials: all of them.
        n_stopped: stopped early.
        n_failed: diverged.
        n_shown: finished trials in the table.
        n_finished: all finished trials.
        best: number of the best trial.
        best_score: its validation score.
        first_score: of trial 1, which has the settings of the user; None if it failed.
        score: what a trial is compared by.
        note: on the optimism of the best score.
        trials: the best trials and trial 1.
        plot: score of each trial.
    """

    n_trials: int
    n_stopped: int
    n_failed: int
    n_shown: int
    n_finished: int
    best: int
    best_score: float
    first_score: float | None
    score: str
    note: str
    trials: Table
    plot: Plot


def search_section(search: Search) -> SearchSection:
    """Summarise a hyperparameter search."""
    first, states = search.trials[0], [trial.state for trial in search.trials]
    finished = [trial for trial in search.trials if trial.state == "done"]
    best = sorted(finished, key=lambda trial: -trial.score)[:_MOST_TRIALS]
    shown = best + [trial for trial in search.trials[:1] if trial not in best]
    names = list(search.best.settings)
    rows = [
        [
            str(trial.number),
            *(_setting(trial, name) for name in names),
            format_number(trial.score) if trial.scores else "failed",
        ]
        for trial in shown
    ]
    return SearchSection(
        n_trials=len(states),
        n_stopped=states.count("stopped"),
        n_failed=states.count("failed"),
        n_shown=len(best),
        n_finished=len(finished),
        best=search.best.number,
        best_score=search.best.score,
        first_score=first.score if first.scores else None,
        score=SCORE,
        note=NOTE,
        trials=Table(["trial", *names, "validation score"], rows),
        plot=_plot(search, finished),
    )


def _setting(trial: Trial, name: str) -> str:
    value = trial.settings[name]
    return format_number(value) if isinstance(value, float) else str(value)


@or_a_note
def _plot(search: Search, finished: list[Trial]) -> Plot:
    """Draw the validation score of each trial, and the best score so far."""
    axes = new_axes("trial", "validation score")
    for state, colour, label in (("done", BLUE, "finished"), ("stopped", GREY, "stopped early")):
        chosen = [trial for trial in search.trials if trial.state == state]
        numbers, scores = [t.number for t in chosen], [t.score for t in chosen]
        axes.scatter(numbers, scores, s=18, color=colour, label=label)
    best = [max(t.score for t in finished[: k + 1]) for k in range(len(finished))]
    numbers = [trial.number for trial in finished]
    axes.step(numbers, best, where="post", color=ORANGE, label="best so far")
    if search.trials[0].scores:
        first = search.trials[0].score
        axes.axhline(first, color=GREY, linewidth=1, linestyle=":", label="initial settings")
    axes.xaxis.get_major_locator().set_params(integer=True)
    add_legend(axes)
    caption = "The best score so far can only rise. A rise alone does not show an improvement."
    return finish_plot(axes, "validation score of the trials", caption)
