"""HTML pages from Jinja2 templates. A page is one file with its style and plots; it loads nothing.

The text of a page is in `templates/`. Python prepares frozen records, which the templates show.
Templates escape every value, except SVG that this package has drawn (`markupsafe.Markup`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from moleblend.data.targets import Target
from moleblend.files import replacing


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        head: column titles.
        rows: cells, one text for each column.
        note: shown below the table.
        is_text: cells hold words, which are aligned to the left.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    is_text: bool = False


def write_page(path: Path, template: str, **values: object) -> Path:
    """Render a template and write the page. The file is complete or absent; it is valid XML too.

    Args:
        path: of the page.
        template: file name in `templates/`.
        values: the template's variables.

    Returns:
        The path.
    """
    with replacing(path) as temporary:
        temporary.write_text(render(template, **values), encoding="utf-8")
    return path


def render(template: str, **values: object) -> str:
    """Render a template: a page, or the section of one."""
    environment = _environment()
    macros = environment.get_template("macros.html").module
    return environment.get_template(template).render(values, m=macros)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("moleblend.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": format_number, "sentence": as_sentence}
    return environment


def format_number(value: float | int | str | None) -> str:
    """Format a number with four digits. Text is a cell of a csv file; empty text is no number."""
    if value is None or value == "":
        return "undefined"
    known = float(value)
    return f"{int(known):,}" if known.is_integer() and abs(known) >= 10 else f"{known:.4g}"


def as_sentence(text: str, *, starts_with_name: bool = False) -> str:
    """Add a full stop, and a capital unless the text starts with a name of the user's."""
    text = text.removesuffix(".") + "."
    return text if starts_with_name else text[0].upper() + text[1:]


def in_parentheses(unit: str) -> str:
    """Format a unit for the end of an axis label or heading; nothing if it is unknown."""
    return f" ({unit})" if unit else ""


def error_unit(target: Target) -> str:
    """Unit of a regression error: that of the labels, or log10 where the logarithm is learned."""
    return "log10" if target.log10 else target.unit


def flat_settings(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """List nested settings as names with dots and values as text."""
    rows = []
    for name, value in settings.items():
        if isinstance(value, dict):
            rows += flat_settings(value, f"{prefix}{name}.")
        else:
            is_list = isinstance(value, list | tuple)
            rows.append((prefix + name, ", ".join(map(str, value)) if is_list else str(value)))
    return rows
