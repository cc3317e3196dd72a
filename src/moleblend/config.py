"""Configurations: frozen dataclasses that come from TOML recipes or JSON headers and refuse what they do not know."""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

import cattrs

T = TypeVar("T")

_CONVERTER = cattrs.Converter(forbid_extra_keys=True)


def _number(value: object, _: type) -> float:
    """Accept 1 for 1.0, but not "1.0" or True: a recipe says what it means."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a number was expected, {value!r} came")
    return float(value)


def _whole_number(value: object, _: type) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a whole number was expected, {value!r} came")
    return value


_CONVERTER.register_structure_hook(float, _number)
_CONVERTER.register_structure_hook(int, _whole_number)


def from_dict(kind: type[T], values: dict[str, Any], source: str) -> T:
    """Fill the dataclass `kind` from plain values.

    Args:
        kind: a frozen dataclass, whose fields may be dataclasses.
        values: as JSON or TOML gives them; what is left out keeps its default.
        source: where the values came from, for the error.

    Raises:
        ValueError: an unknown name, a value of another type, or one that the dataclass refuses.
    """
    try:
        return _CONVERTER.structure(values, kind)
    except cattrs.BaseValidationError as error:
        reasons = "; ".join(text.replace("@ $.", "at ") for text in cattrs.transform_error(error))
        raise ValueError(f"{source}: {reasons}") from error


def to_dict(config: object) -> dict[str, Any]:
    """Give the plain values of a dataclass: what `from_dict` takes."""
    return _CONVERTER.unstructure(config)


def read_recipe(kind: type[T], path: Path) -> T:
    """Read a TOML recipe into the dataclass `kind`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not TOML, or a field is unknown or refused.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such recipe")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file ({error})") from error
    return from_dict(kind, values, str(path))
