"""Configurations: frozen dataclasses from TOML or JSON; unknown names and types are errors."""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import cattrs
from cattrs.cols import homogenous_tuple_structure_factory, mapping_structure_factory

from moleblend.errors import SettingError

T = TypeVar("T")

_Structure = Callable[[Any, Any], Any]
_CONVERTER = cattrs.Converter(forbid_extra_keys=True)


def from_dict(kind: type[T], values: object, source: str) -> T:
    """Create the dataclass `kind` from plain values.

    Values are not converted: `1` is a number, but `"1"` and `true` are not; a text is not a list.

    Args:
        kind: a frozen dataclass, whose fields may be dataclasses.
        values: a dict from JSON or TOML; missing fields keep their defaults.
        source: where the values come from, for error messages.

    Raises:
        ValueError: a name is unknown, or a value has another type or is invalid; the message names
            each such field.
    """
    try:
        return _CONVERTER.structure(values, kind)
    except (cattrs.BaseValidationError, TypeError) as error:
        messages = []
        for reason in cattrs.transform_error(error, format_exception=_reason):
            text, _, field = reason.rpartition(" @ $")
            messages.append(f"{field.removeprefix('.')}: {text}" if field else text)
        raise ValueError(f"{source}: {'; '.join(messages)}") from error


def to_dict(config: object) -> dict[str, Any]:
    """Return the plain values of a dataclass, as `from_dict` reads them."""
    return _CONVERTER.unstructure(config)


def check_choice(name: str, value: object, kind: object) -> None:
    """Check an argument whose type is a `Literal`.

    Raises:
        SettingError: the value is not one of the choices, which the message lists.
    """
    try:
        _one_of(value, kind)
    except ValueError as error:
        raise SettingError(f"{name}: {error}") from error


def check_choices(config: object) -> None:
    """Check the `Literal` and tuple fields of a dataclass.

    Raises:
        ValueError: a value is not one of the choices, or not a tuple; the message names the field,
            the choices and the value.
    """
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        each, values = kind, [value]
        if get_origin(kind) is tuple:
            if not isinstance(value, (tuple, list)):
                raise ValueError(f"{name}: got {value!r}, expected a tuple")
            each, values = get_args(kind)[0], list(value)
        if get_origin(each) is Literal:
            for one in values:
                check_choice(name, one, each)


def read_recipe(kind: type[T], path: Path) -> T:
    """Read a TOML recipe into the dataclass `kind`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not TOML, or a field is unknown or invalid.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such recipe")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a valid TOML file ({error})") from error
    return from_dict(kind, values, str(path))


def _reason(error: BaseException, _: object) -> str:
    """Explain an error of cattrs in one phrase."""
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        unknown, known = ", ".join(sorted(error.extra_fields)), ", ".join(get_type_hints(error.cl))
        return f"unknown name {unknown}; available: {known}"
    return "a value is required" if isinstance(error, KeyError) else str(error)


def _checked(accepted: type | tuple[type, ...], expected: str, structure: _Structure) -> _Structure:
    """Wrap a structure function with a check of the type."""

    def check(value: object, kind: object) -> object:
        # In Python True is an int, but in a recipe it is not a number.
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"got {value!r}, expected {expected}")
        return structure(value, kind)

    return check


def _mapping_structure(kind: Any) -> _Structure:  # noqa: ANN401 (dict[str, int] is no type)
    return mapping_structure_factory(kind, _CONVERTER)


def _tuple_structure(kind: Any) -> _Structure:  # noqa: ANN401 (tuple[int, ...] is no type)
    if get_args(kind)[-1] is ...:
        return homogenous_tuple_structure_factory(kind, _CONVERTER)
    length, structure = len(get_args(kind)), _CONVERTER.gen_structure_hetero_tuple(kind)

    def check(values: Sequence[object], _: object) -> object:
        if len(values) != length:
            raise ValueError(f"got {list(values)}, expected {length} values")
        return structure(values, kind)

    return check


def _one_of(value: object, kind: object) -> object:
    choices = get_args(kind)
    if not any(isinstance(value, type(one)) and value == one for one in choices):
        raise ValueError(f"got {value!r}, expected one of {', '.join(map(repr, choices))}")
    return value


def _number_or_auto(value: object, _: object) -> object:
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(f"got {value!r}, expected an integer or 'auto'")
    return value


def _register_hooks() -> None:
    scalars = ((float, (int, float), "a number"), (int, int, "an integer"))
    scalars += ((bool, bool, "true or false"), (str, str, "a text"))
    for kind, accepted, expected in scalars:
        convert = _checked(accepted, expected, lambda value, kind: kind(value))
        _CONVERTER.register_structure_hook(kind, convert)
    _CONVERTER.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _one_of)
    _CONVERTER.register_structure_hook(int | Literal["auto"], _number_or_auto)
    containers = (
        (is_dataclass, dict, "a table", _CONVERTER.gen_structure_attrs_fromdict),
        (lambda kind: get_origin(kind) is dict, dict, "a table", _mapping_structure),
        (lambda kind: get_origin(kind) is tuple, (list, tuple), "a list", _tuple_structure),
    )
    for applies_to, accepted, expected, make in containers:
        _CONVERTER.register_structure_hook_factory(
            applies_to, lambda kind, a=accepted, e=expected, make=make: _checked(a, e, make(kind))
        )


_register_hooks()
