"""HTML pages with everything in them: figures, tables, style; nothing is fetched.

matplotlib, an extra of the package, is imported when the first figure is drawn and only here.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from jaxtyping import Float

from moleblend.files import replacing

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#e69f00", "#009e73", "#8a8f98"

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --paper: #fff; --quiet: #535b6b; --line: #dfe3e9;
  --strong-line: #c9cfd9; --inset: #f3f5f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ec; --paper: #15181e; --quiet: #a5adba;
  --line: #333a45; --strong-line: #4c5563; --inset: #232831; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; max-width: 72rem; padding: 1rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; padding-top: .7rem;
  border-top: 1px solid var(--line); }
p { max-width: 44rem; margin: .5rem 0; }
.lead { color: var(--quiet); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr));
  gap: 1rem 1.2rem; margin: .8rem 0; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption, .note { color: var(--quiet); font-size: .85rem; line-height: 1.4; text-align: left; }
.scroll { overflow-x: auto; margin: .8rem 0 .4rem; }
.note { margin: 0 0 .8rem; max-width: 60rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; border-bottom: 2px solid var(--strong-line); }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
.words td { overflow-wrap: anywhere; }
.words td:first-child { overflow-wrap: normal; }
td small { color: var(--quiet); display: block; white-space: nowrap; }
.warning { border-left: 4px solid #e69f00; padding-left: .7rem; font-weight: 600; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .2rem; overflow-wrap: anywhere; }
h4 { font-size: .95rem; margin: 1rem 0 .2rem; }
.families td { vertical-align: middle; }
.families figure { width: 7rem; }
.molecules { display: grid; grid-template-columns: repeat(auto-fill, 13rem);
  gap: .8rem 1rem; font-size: .85rem; line-height: 1.35; }
.molecules > * { min-width: 0; overflow-wrap: anywhere; }
.card { border-top: 1px solid var(--line); margin-top: 1.6rem; padding-top: .4rem; }
.card h2 { border: 0; margin: .3rem 0 .2rem; padding: 0; }
.card h3 { font-size: 1rem; margin: .8rem 0 .2rem; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr));
  gap: .6rem 1.6rem; align-items: start; }
.beside > * { min-width: 0; }
svg.bars { display: block; width: 100%; max-width: 26rem; height: auto; }
svg.bars text { font: 13px system-ui, sans-serif; fill: var(--ink); }
.scale { max-width: 20rem; font-size: .85rem; }
.scale div { height: .7rem; border-radius: 3px; print-color-adjust: exact; }
.nearest { max-width: 16rem; }
.beside small { color: var(--quiet); }
.scale p { display: grid; grid-template-columns: 1fr auto 1fr; margin: .1rem 0; }
.scale span:last-child { text-align: right; }
code, pre { font: .88em/1.5 ui-monospace, monospace; background: var(--inset); border-radius: 4px; }
code { padding: .1em .3em; overflow-wrap: anywhere; }
pre { padding: .7rem .9rem; overflow-x: auto; }
@media (max-width: 40rem) { table { font-size: .8rem; } th, td { padding-right: .6rem; }
  .scroll { border-right: 1px dotted var(--strong-line); } .families figure { width: 5rem; }
  td:first-child { min-width: 5.5rem; } .molecules { grid-template-columns: repeat(2, 1fr); } }
"""


def require_matplotlib() -> None:
    """Make sure that figures can be drawn.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            "the figures of a report need matplotlib: pip install 'moleblend[report]'"
        ) from error


def axes_of(title: str, x: str, y: str, *, height: float = 2.5) -> Any:  # noqa: ANN401
    """Begin a figure with one pair of axes (a matplotlib `Axes`: its type may not be there)."""
    require_matplotlib()
    from matplotlib.figure import Figure

    axes = Figure(figsize=(3.4, height), layout="constrained").add_subplot()
    # Names of columns are shown as they are, however long: a dollar sign begins no formula.
    axes.set_title(fill(title, 44), fontsize=10, loc="left", parse_math=False)
    axes.set_xlabel(fill(x, 46), fontsize=9, parse_math=False)
    axes.set_ylabel(fill(y, 16 * int(height)), fontsize=9, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def matrix(
    title: str,
    values: Float[np.ndarray, "n n"],
    texts: np.ndarray,
    colours: str | Sequence[str],
    about: str,
    *,
    highest: float | None = None,
) -> str:
    """Draw a value of each pair of atoms, with its text in the cell."""
    axes = axes_of(title, "", "", height=3.5)
    from matplotlib.colors import ListedColormap

    shades = colours if isinstance(colours, str) else ListedColormap(colours)
    top = float(values.max()) if highest is None else highest
    axes.imshow(values, cmap=shades, vmin=0, vmax=max(top, 1e-9), alpha=0.75)
    n = len(values)
    size = min(10.0, 70.0 / n)
    for i, j in np.ndindex(n, n):
        axes.text(j, i, texts[i, j], ha="center", va="center", fontsize=size)
    axes.set_xticks(range(n), range(1, n + 1))
    axes.set_yticks(range(n), range(1, n + 1))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return picture(axes, about)


def picture(axes: Any, about: str) -> str:  # noqa: ANN401
    """Finish a figure: an image inside the page, with its caption."""
    import matplotlib

    file = BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": "moleblend", "svg.fonttype": "none"}):
        axes.figure.savefig(file, format="svg", metadata=nothing)
    return image(file.getvalue(), about, " ".join(axes.get_title(loc="left").split()))


def image(svg: bytes, about: str, alternative: str) -> str:
    """Put an SVG image and its caption into the page."""
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return (
        f'<figure><img src="{source}" alt="{escape(alternative)}"/>'
        f"<figcaption>{escape(about)}</figcaption></figure>"
    )


def plots(pictures: Iterable[str]) -> str:
    """Set pictures side by side, as many as the window has room for."""
    return f"<div class='plots'>{''.join(pictures)}</div>"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    note: str = "",
    *,
    style: str = "",
    is_html: bool = False,
) -> str:
    """Write a table; its cells are text, or HTML already."""
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = ""
    for row in rows:
        cells = "".join(f"<td>{cell if is_html else escape(cell)}</td>" for cell in row)
        body += f"<tr>{cells}</tr>"
    told = f"<p class='note'>{escape(note)}</p>" if note else ""
    return (
        f"<div class='scroll'><table class='{style}'><thead><tr>{titles}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>{told}"
    )


def settings_table(settings: dict[str, Any]) -> str:
    """List all settings of a run, folded away."""
    rows = table(("setting", "value"), _flat_settings(settings), style="words")
    return f"<details><summary>all settings of the run</summary>{rows}</details>"


def _flat_settings(settings: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat_settings(value, f"{prefix}{name}.")
        else:
            told = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"{prefix}{name}", told


def number(value: float | int | str | None) -> str:
    """Say a number in four digits; the cells of a csv file are text, an empty one is no number."""
    if value is None or value == "":
        return "undefined"
    known = float(value)
    return f"{int(known):,}" if known.is_integer() and abs(known) >= 10 else f"{known:.4g}"


def write_page(path: Path, title: str, body: Iterable[str]) -> Path:
    """Write a page, whole or not at all; it is well-formed XML too."""
    page = (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'/>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'/>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(body) + "</body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
