"""What a search of settings found: sentences, a table and a plot for the page of a training."""

from html import escape

from moleblend.finetuning.hyperparameter_search import FIGURE, NOTE, Search, Trial
from moleblend.reports.html_page import BLUE, GREY, ORANGE, axes_of, number, picture, plots, table

_MOST_TRIALS = 10


def search_part(found: Search) -> list[str]:
    """Write the part of a page: what was tried, and which trials were best."""
    first, states = found.trials[0], [trial.state for trial in found.trials]
    came = number(first.figure) if first.figures else "nothing, since it failed"
    told = (
        f"{len(states):,} trials on the training and the validation part, of which "
        f"{states.count('stopped'):,} were stopped early and {states.count('failed'):,} failed. "
        f"Trial {found.best.number} is the best, with {number(found.best.figure)}; the settings "
        f"that came (trial 1) have {came}. Here {FIGURE}."
    )
    return [
        "<h2>Search of the settings</h2>",
        f"<p>{escape(told)}</p>",
        f"<p>{escape(NOTE[0].upper() + NOTE[1:])}.</p>",
        _table(found),
        plots([_picture(found)]),
    ]


def _table(found: Search) -> str:
    """List the best trials and the first one, whose settings came."""
    done = [trial for trial in found.trials if trial.state == "done"]
    best = sorted(done, key=lambda trial: -trial.figure)[:_MOST_TRIALS]
    shown = best + [trial for trial in found.trials[:1] if trial not in best]
    names = list(found.best.settings)
    rows = [
        [str(t.number), *[_value(t, name) for name in names], number(t.figure)]
        if t.figures
        else [str(t.number), *[_value(t, name) for name in names], "failed"]
        for t in shown
    ]
    note = (
        f"The best {len(best)} of {len(done)} trials that came to an end, and trial 1; search.csv "
        "in the run folder has all."
    )
    return table(["trial", *names, "figure"], rows, note)


def _value(trial: Trial, name: str) -> str:
    value = trial.settings[name]
    return number(value) if isinstance(value, float) else str(value)


def _picture(found: Search) -> str:
    """Draw the figure over the trials."""
    plot = axes_of("validation figure", "trial", "")
    for state, colour, label in (("done", BLUE, "to the end"), ("stopped", GREY, "stopped")):
        chosen = [trial for trial in found.trials if trial.state == state]
        numbers, figures = [t.number for t in chosen], [t.figure for t in chosen]
        plot.scatter(numbers, figures, s=14, color=colour, label=label)
    done = [trial for trial in found.trials if trial.state == "done"]
    best = [max(t.figure for t in done[: k + 1]) for k in range(len(done))]
    numbers = [trial.number for trial in done]
    plot.step(numbers, best, where="post", color=ORANGE, label="best so far")
    if found.trials[0].figures:
        first = found.trials[0].figure
        plot.axhline(first, color=GREY, linewidth=1, linestyle=":", label="settings that came")
    plot.xaxis.get_major_locator().set_params(integer=True)
    plot.legend(frameon=False, fontsize=8)
    return picture(plot, "The best so far can only rise: that is no proof of its worth.")
