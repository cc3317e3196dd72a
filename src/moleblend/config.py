"""Configurations: frozen dataclasses from TOML or JSON, which refuse what they do not know."""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import cattrs
from cattrs.cols import homogenous_tuple_structure_factory, mapping_structure_factory

T = TypeVar("T")

_Structure = Callable[[Any, Any], Any]
_CONVERTER = cattrs.Converter(forbid_extra_keys=True)


def from_dict(kind: type[T], values: object, source: str) -> T:
    """Fill the dataclass `kind` from plain values.

    A value is taken as it stands: `1` is a number, `"1"` and `true` are not, and a text is no list.

    Args:
        kind: a frozen dataclass, whose fields may be dataclasses.
        values: a dict as JSON or TOML gives it; what is left out keeps its default.
        source: where the values came from, for the error.

    Raises:
        ValueError: an unknown name, a value of another type, or one that the dataclass refuses; the
            message names each such field.
    """
    try:
        return _CONVERTER.structure(values, kind)
    except (cattrs.BaseValidationError, TypeError) as error:
        told = []
        for reason in cattrs.transform_error(error, format_exception=_reason):
            text, _, place = reason.rpartition(" @ $")
            told.append(f"{place.removeprefix('.')}: {text}" if place else text)
        raise ValueError(f"{source}: {'; '.join(told)}") from error


def to_dict(config: object) -> dict[str, Any]:
    """Give the plain values of a dataclass: what `from_dict` takes."""
    return _CONVERTER.unstructure(config)


def check_choices(config: object) -> None:
    """Refuse values that a field of a dataclass does not list, and texts where it holds several.

    Raises:
        ValueError: the message names the field, what it may be, and what came.
    """
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        each, values = kind, [value]
        if get_origin(kind) is tuple:
            if not isinstance(value, (tuple, list)):
                raise ValueError(f"{name}: a tuple was expected, {value!r} came")
            each, values = get_args(kind)[0], list(value)
        if get_origin(each) is Literal:
            for one in values:
                try:
                    _one_of(one, each)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error


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


def _reason(error: BaseException, _: object) -> str:
    """Say in words why a value was refused."""
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        unknown, known = ", ".join(sorted(error.extra_fields)), ", ".join(get_type_hints(error.cl))
        return f"{unknown} is unknown, known are {known}"
    return "a value is needed" if isinstance(error, KeyError) else str(error)


def _checked(accepted: type | tuple[type, ...], told: str, structure: _Structure) -> _Structure:
    """Refuse a value of another type before it is structured."""

    def check(value: object, kind: object) -> object:
        # Python counts True as the number 1; a recipe that says so is mistaken.
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{told} was expected, {value!r} came")
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
            raise ValueError(f"{length} values were expected, {list(values)} came")
        return structure(values, kind)

    return check


def _one_of(value: object, kind: object) -> object:
    choices = get_args(kind)
    if value not in choices:
        raise ValueError(f"one of {', '.join(map(repr, choices))} was expected, {value!r} came")
    return value


def _number_or_auto(value: object, _: object) -> object:
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(f"a whole number or 'auto' was expected, {value!r} came")
    return value


def _register_hooks() -> None:
    scalars = ((float, (int, float), "a number"), (int, int, "a whole number"))
    scalars += ((bool, bool, "true or false"), (str, str, "a text"))
    for kind, accepted, told in scalars:
        take = _checked(accepted, told, lambda value, kind: kind(value))
        _CONVERTER.register_structure_hook(kind, take)
    _CONVERTER.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _one_of)
    _CONVERTER.register_structure_hook(int | Literal["auto"], _number_or_auto)
    containers = (
        (is_dataclass, dict, "a table", _CONVERTER.gen_structure_attrs_fromdict),
        (lambda kind: get_origin(kind) is dict, dict, "a table", _mapping_structure),
        (lambda kind: get_origin(kind) is tuple, (list, tuple), "a list", _tuple_structure),
    )
    for is_such, accepted, told, make in containers:
        _CONVERTER.register_structure_hook_factory(
            is_such, lambda kind, a=accepted, t=told, make=make: _checked(a, t, make(kind))
        )


_register_hooks()
