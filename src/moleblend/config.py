"""Configurations: frozen dataclasses from TOML or JSON; unknown names and types are errors."""

import difflib
import math
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import is_dataclass
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import cattrs
from cattrs.cols import homogenous_tuple_structure_factory, mapping_structure_factory

from moleblend.errors import MissingFileError, SettingError, SettingTypeError

PACKAGED = "packaged"
"""Name of the model that comes with the package, accepted in place of a path."""

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'NAME'?)` for the closest known name; empty if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


_LARGEST_INTEGER = 2**31
_MOST_SHOWN = 200
_EXPECTED = {
    float: (Real, "a number"),
    int: (Integral, "an integer"),
    bool: (bool, "true or false"),
    str: (str, "a text"),
}

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
        SettingError: a name is unknown, or a value has another type or is invalid; the message
            names each such field.
    """
    try:
        return _CONVERTER.structure(values, kind)
    except (cattrs.BaseValidationError, TypeError) as error:
        messages = []
        for reason in cattrs.transform_error(error, format_exception=_reason):
            text, _, field = reason.rpartition(" @ $")
            messages.append(f"{field.removeprefix('.')}: {text}" if field else text)
        raise SettingError(f"{source}: {'; '.join(messages)}") from error


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


def check_type(name: str, value: object, kind: Any) -> None:  # noqa: ANN401 (a union is no type)
    """Check the type of an argument.

    Raises:
        SettingTypeError: the message names the argument, the value and what was expected.
    """
    try:
        _check_type(value, kind)
    except (TypeError, ValueError) as error:
        raise SettingTypeError(f"{name}: {error}") from error


def shown_value(value: object) -> str:
    """Describe a value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def check_fields(config: object) -> None:
    """Check the types of the fields of a dataclass, which Python itself does not.

    Integers must be below 2³¹. Values are not converted.

    Raises:
        SettingError: the message names the field, the value and what was expected.
    """
    for name, kind in _field_types(type(config)).items():
        try:
            _check_type(getattr(config, name), kind)
        except (TypeError, ValueError) as error:
            raise SettingError(f"{name}: {error}") from error


def check_finite(config: object) -> None:
    """Check that no number of a dataclass, or of its tuples, is NaN or infinite.

    Raises:
        SettingError: the message names the field.
    """
    for name in _field_types(type(config)):
        value = getattr(config, name)
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, Real) and not math.isfinite(number):
                raise SettingError(f"got {name}={value}, expected a finite number")


def check_at_least(config: object, smallest: int, *names: str) -> None:
    """Check that fields of a dataclass are not below a number.

    Raises:
        SettingError: the message names the first such field.
    """
    for name in names:
        value = getattr(config, name)
        if not value >= smallest:
            raise SettingError(f"got {name}={value}, expected a number of at least {smallest}")


def check_rates(config: object, *names: str) -> None:
    """Check that fields of a dataclass are rates, from 0 to below 1.

    Raises:
        SettingError: the message names the first other field.
    """
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise SettingError(f"got {name}={value}, expected a rate in [0, 1)")


@lru_cache
def _field_types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _check_type(value: object, kind: Any) -> None:  # noqa: ANN401 (dict[str, int] is no type)
    """Check a value against a type; types that no configuration has are not checked."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        _one_of(value, kind)
    elif origin is tuple:
        _check_tuple(value, arguments)
    elif origin in (Union, UnionType):
        problems = []
        for one in arguments:
            try:
                _check_type(value, one)
            except (TypeError, ValueError) as error:
                problems.append(str(error).partition("expected ")[2])
            else:
                return
        raise TypeError(f"got {shown_value(value)}, expected {' or '.join(problems)}")
    elif kind is type(None):
        if value is not None:
            raise TypeError(f"got {shown_value(value)}, expected None")
    elif kind in _EXPECTED:
        accepted, expected = _EXPECTED[kind]
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"got {shown_value(value)}, expected {expected}")
        if isinstance(value, Integral) and abs(int(value)) >= _LARGEST_INTEGER:
            raise SettingError(
                f"got {shown_value(value)}, expected {expected} below {_LARGEST_INTEGER:,}"
            )
    elif isinstance(kind, type) and not isinstance(value, kind):
        raise TypeError(f"got {shown_value(value)}, expected {kind.__name__}")


def _check_tuple(value: object, kinds: tuple[Any, ...]) -> None:
    if not isinstance(value, tuple | list):
        raise TypeError(f"got {shown_value(value)}, expected a tuple")
    if kinds[-1] is ...:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise TypeError(f"got {list(value)}, expected {len(kinds)} values")
    for one, kind in zip(value, kinds, strict=True):
        _check_type(one, kind)


def read_recipe(kind: type[T], path: Path) -> T:
    """Read a TOML recipe into the dataclass `kind`.

    Raises:
        MissingFileError: there is no such file.
        SettingError: it is not TOML, or a field is unknown or invalid.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: no such recipe")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path}: not a valid TOML file ({error})") from error
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
            raise TypeError(f"got {shown_value(value)}, expected {expected}")
        return structure(value, kind)

    return check


def _number(value: Any, kind: Any) -> object:  # noqa: ANN401 (a checked number)
    """Convert to a finite float: NaN and infinity are values of TOML and of Python's JSON."""
    try:
        number = kind(value)
    except OverflowError as error:
        raise SettingError(
            f"got {shown_value(value)}, expected a number in the range of a float"
        ) from error
    if isinstance(number, float) and not math.isfinite(number):
        raise SettingError(f"got {shown_value(value)}, expected a finite number")
    return number


def _mapping_structure(kind: Any) -> _Structure:  # noqa: ANN401 (dict[str, int] is no type)
    return mapping_structure_factory(kind, _CONVERTER)


def _tuple_structure(kind: Any) -> _Structure:  # noqa: ANN401 (tuple[int, ...] is no type)
    if get_args(kind)[-1] is ...:
        return homogenous_tuple_structure_factory(kind, _CONVERTER)
    length, structure = len(get_args(kind)), _CONVERTER.gen_structure_hetero_tuple(kind)

    def check(values: Sequence[object], _: object) -> object:
        if len(values) != length:
            raise SettingError(f"got {list(values)}, expected {length} values")
        return structure(values, kind)

    return check


def _one_of(value: object, kind: object) -> object:
    choices = get_args(kind)
    if not any(isinstance(value, type(one)) and value == one for one in choices):
        raise SettingError(
            f"got {shown_value(value)}, expected one of {', '.join(map(repr, choices))}"
        )
    return value


def _number_or_auto(value: object, _: object) -> object:
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(f"got {shown_value(value)}, expected an integer or 'auto'")
    return value


def _register_hooks() -> None:
    scalars = ((float, (int, float), "a number"), (int, int, "an integer"))
    scalars += ((bool, bool, "true or false"), (str, str, "a text"))
    for kind, accepted, expected in scalars:
        convert = _checked(accepted, expected, _number)
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
