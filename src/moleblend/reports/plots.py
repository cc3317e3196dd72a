"""Plots as inline SVG. matplotlib is an extra of the package, imported when a plot is drawn.

A plot has no background, and its colours are CSS variables of the page. So it can be read in light
and dark windows and on paper.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from hashlib import sha256
from io import StringIO
from textwrap import fill
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape

from moleblend.errors import MoleblendError, SettingError

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#e69f00", "#009e73", "#8a8f98"

MOST_TARGETS_PLOTTED = 6

_P = ParamSpec("_P")
_Plots = TypeVar("_Plots")

_INK, _AXIS = "#1d2330", "#9aa1ad"
_VARIABLES = {
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    GREY: "var(--grey)",
    _INK: "var(--ink)",
    _AXIS: "var(--axis)",
}
"""CSS variable of each colour; see `templates/style.css`."""

_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _AXIS,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "text.color": _INK,
    "xtick.color": _AXIS,
    "ytick.color": _AXIS,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "moleblend",
}

_WIDTH = 4.8
"""Inches. A plot is about 540 pixels wide on a page, so a point of type is about 1.5 pixels."""

_MOST_VECTOR_POINTS = 5_000


@dataclass(frozen=True)
class Plot:
    """A plot of a page.

    Attributes:
        svg: an `<svg>` element.
        title: shown above it.
        caption: shown below it.
        is_on_white: the plot keeps a white background in dark windows.
    """

    svg: Markup
    title: str
    caption: str
    is_on_white: bool = False


def or_a_note(draw: Callable[_P, _Plots]) -> Callable[_P, _Plots]:
    """Decorate a function that draws a plot or several: a failing one is left out, and said.

    One plot that numbers or matplotlib refuse (all labels nearly equal, a logarithm that is too
    large) must not cost the report.
    """

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> _Plots:
        try:
            return draw(*args, **kwargs)
        except MoleblendError:  # such as a missing matplotlib, which concerns all plots
            raise
        except (ValueError, ArithmeticError, RuntimeError, IndexError) as error:
            reason = " ".join(str(error).split())
            note = Markup('<p class="warning">A plot is left out: {}.</p>').format(reason)
            plot = Plot(note, getattr(draw, "__name__", "plot").strip("_").replace("_", " "), "")
            is_list = "list" in str(draw.__annotations__.get("return", ""))
            return cast("_Plots", [plot] if is_list else plot)

    return drawn


def require_matplotlib() -> None:
    """Make sure that plots can be drawn.

    Raises:
        SettingError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise SettingError(
            "the plots of a report need matplotlib: pip install 'moleblend[report]'"
        ) from error


def new_axes(x: str, y: str, *, width: float = _WIDTH, height: float = 3.0) -> Any:  # noqa: ANN401
    """Create one pair of axes in a figure of its own.

    Args:
        x: label of the horizontal axis.
        y: label of the vertical axis.
        width: of the figure, in inches.
        height: of the figure, in inches.

    Returns:
        A matplotlib `Axes`. The type is not named, since matplotlib may be missing.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        axes = Figure(figsize=(width, height), layout="constrained").add_subplot()
    # Column names are shown as they are: a dollar sign does not start a formula.
    axes.set_xlabel(fill(x, 60), fontsize=8.5, parse_math=False)
    axes.set_ylabel(fill(y, 17 * int(height)), fontsize=8.5, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def add_legend(axes: Any, location: str = "best") -> None:  # noqa: ANN401
    """Add a legend without a frame."""
    axes.legend(frameon=False, fontsize=8, loc=location, labelcolor=_INK)


def scatter(
    axes: Any,  # noqa: ANN401
    x: Float[np.ndarray, " m"],
    y: Float[np.ndarray, " m"],
    colour: str,
) -> None:
    """Draw points; many thousands become one embedded image, so that the page stays small."""
    is_image = len(x) > _MOST_VECTOR_POINTS
    axes.scatter(x, y, s=11, color=colour, alpha=0.5, linewidths=0, rasterized=is_image)


def finish_plot(
    axes: Any,  # noqa: ANN401
    title: str,
    caption: str = "",
    *,
    is_on_white: bool = False,
) -> Plot:
    """Turn a figure into an `<svg>` element that scales and follows the colours of the page."""
    import matplotlib

    file = StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(_STYLE):
        axes.figure.savefig(file, format="svg", metadata=metadata, transparent=True, dpi=150)
    return Plot(_inline(file.getvalue(), title), title, caption, is_on_white)


def draw_matrix(
    title: str,
    values: Float[np.ndarray, "n n"],
    texts: np.ndarray,
    colours: str | Sequence[str],
    caption: str,
    *,
    highest: float | None = None,
) -> Plot:
    """Draw one value for each pair of atoms, with a text in each cell.

    Args:
        title: of the plot.
        values: they choose the colour.
        texts: of the cells.
        colours: name of a colour map, or the colours of 0, 1, 2 and so on.
        caption: of the plot.
        highest: value with the strongest colour; the largest of `values` by default.
    """
    axes = new_axes("", "", width=3.3, height=3.2)
    from matplotlib.colors import ListedColormap

    shades = colours if isinstance(colours, str) else ListedColormap(colours)
    top = float(values.max()) if highest is None else highest
    axes.imshow(values, cmap=shades, vmin=0, vmax=max(top, 1e-9), alpha=0.75)
    n = len(values)
    size = min(10.0, 70.0 / n)
    for i, j in np.ndindex(n, n):
        axes.text(j, i, texts[i, j], ha="center", va="center", fontsize=size, color=_INK)
    axes.set_xticks(range(n), range(1, n + 1))
    axes.set_yticks(range(n), range(1, n + 1))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return finish_plot(axes, title, caption, is_on_white=True)


def _inline(svg: str, title: str) -> Markup:
    """Prepare the SVG that matplotlib writes for a page that holds several of them."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"(?<=: )#[0-9a-f]{6}", lambda hit: _VARIABLES.get(hit[0], hit[0]), svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "system-ui, sans-serif", svg)
    # Elements of different plots need different names.
    prefix = f"p{sha256((title + svg).encode()).hexdigest()[:8]}-"
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{prefix}", svg)
    label = escape(" ".join(title.split()))
    return Markup(svg.replace("<svg", f'<svg class="plot" role="img" aria-label="{label}"', 1))
