"""Recipes and headers: read is what was written, and what is wrong is named in one sentence."""

import json
import re
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from moleblend.config import from_dict, read_recipe, to_dict
from moleblend.model.encoder_config import EncoderConfig
from moleblend.model.heads import HeadsConfig
from moleblend.pretraining.config import PretrainConfig


@dataclass(frozen=True)
class Inner:
    """Fields that refuse each other."""

    width: int = 4
    n_heads: int = 2
    rate: float = 0.5
    kind: Literal["big", "small"] = "big"

    def __post_init__(self):
        if self.width % self.n_heads:
            raise ValueError(
                f"width must be a multiple of n_heads: {self.width}, {self.n_heads} came"
            )


@dataclass(frozen=True)
class Item:
    """A field without a default."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True)
class Outer:
    """One field of every kind that a recipe may hold."""

    inner: Inner = Inner()
    maybe: Inner | None = Inner()
    items: tuple[Item, ...] = ()
    names: tuple[str, ...] = ()
    shares: tuple[float, float] = (0.5, 0.5)
    is_on: bool = False
    seed: int | None = None
    folder: Path | None = None
    notes: dict[str, Any] | None = None


FULL = Outer(
    inner=Inner(width=9, n_heads=3, rate=0.1, kind="small"),
    maybe=None,
    items=(Item("gap", 2.5), Item("mu")),
    names=("a", "b"),
    shares=(0.25, 0.75),
    is_on=True,
    seed=3,
    folder=Path("runs"),
    notes={"rows": [1, 2], "by": None},
)


@pytest.mark.parametrize("config", [Outer(), FULL])
def test_json_round_trip(config):
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config))), "header") == config


def test_what_is_left_out_keeps_its_default():
    read = from_dict(Outer, {"inner": {"width": 8}}, "header")
    assert read == Outer(inner=Inner(width=8))


def test_whole_numbers_and_lists_are_taken_as_numbers_and_tuples():
    read = from_dict(Outer, {"shares": [0, 1], "inner": {"rate": 1}}, "header")
    assert read.shares == (0.0, 1.0)
    assert isinstance(read.shares[0], float)
    assert isinstance(read.inner.rate, float)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([1], "got [1], expected a table"),
        (
            {"widht": 3},
            "unknown name widht; available: inner, maybe, items, names, shares, is_on, seed",
        ),
        (
            {"inner": {"hight": 3}},
            "inner: unknown name hight; available: width, n_heads, rate, kind",
        ),
        ({"inner": {"width": 5}}, "inner: width must be a multiple of n_heads: 5, 2 came"),
        ({"inner": {"width": "8"}}, "inner.width: got '8', expected an integer"),
        ({"inner": {"width": 8.0}}, "inner.width: got 8.0, expected an integer"),
        ({"inner": {"width": True}}, "inner.width: got True, expected an integer"),
        ({"inner": {"rate": "1"}}, "inner.rate: got '1', expected a number"),
        ({"inner": {"rate": False}}, "inner.rate: got False, expected a number"),
        (
            {"inner": {"kind": "tiny"}},
            "inner.kind: got 'tiny', expected one of 'big', 'small'",
        ),
        ({"inner": "big"}, "inner: got 'big', expected a table"),
        ({"inner": None}, "inner: got None, expected a table"),
        ({"maybe": {"rate": "x"}}, "maybe.rate: got 'x', expected a number"),
        ({"maybe": 3}, "maybe: got 3, expected a table"),
        ({"items": [{"name": "y"}, {"scale": 1}]}, "items[1].name: a value is required"),
        ({"items": {"name": "y"}}, "items: got {'name': 'y'}, expected a list"),
        ({"names": "gap"}, "names: got 'gap', expected a list"),
        ({"names": ["gap", 5]}, "names[1]: got 5, expected a text"),
        ({"shares": [1]}, "shares: got [1], expected 2 values"),
        ({"shares": [0.5, "x"]}, "shares[1]: got 'x', expected a number"),
        ({"is_on": "false"}, "is_on: got 'false', expected true or false"),
        ({"is_on": 1}, "is_on: got 1, expected true or false"),
        ({"seed": 1.5}, "seed: got 1.5, expected an integer"),
        ({"notes": [1]}, "notes: got [1], expected a table"),
    ],
)
def test_a_wrong_value_is_named_in_one_sentence(values, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(f'mini.toml: {sentence}')}[^\n]*$"):
        from_dict(Outer, values, "mini.toml")


@pytest.mark.parametrize("kind", [dict[str, int], tuple[int, ...], tuple[int, int], Inner, str])
def test_a_type_is_checked_in_every_dataclass_that_has_it(kind):
    # cattrs keeps what it once built for a type
    for name in ("First", "Second"):
        config = make_dataclass(name, [("field", kind)], frozen=True)
        with pytest.raises(ValueError, match=r"^mini\.toml: field: got 5\.5, expected a \w+$"):
            from_dict(config, {"field": 5.5}, "mini.toml")


def test_every_wrong_field_is_named():
    wrong = {"is_on": "no", "inner": {"rate": "x"}}
    with pytest.raises(ValueError, match=r"inner\.rate: .*; is_on: "):
        from_dict(Outer, wrong, "mini.toml")


def test_recipe(tmp_path):
    path = tmp_path / "mini.toml"
    path.write_text('shares = [1, 0]\n[inner]\nkind = "small"\n[[items]]\nname = "gap"\n')
    expected = Outer(shares=(1.0, 0.0), inner=Inner(kind="small"), items=(Item("gap"),))
    assert read_recipe(Outer, path) == expected


def test_bad_recipes(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such recipe"):
        read_recipe(Outer, tmp_path / "absent.toml")
    path = tmp_path / "bad.toml"
    for content in (b"shares = [1,", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.toml: not a valid TOML file"):
            read_recipe(Outer, path)
    path.write_text("seed = 'one'")
    with pytest.raises(ValueError, match=r"bad\.toml: seed: got 'one', expected an integer"):
        read_recipe(Outer, path)


@pytest.mark.parametrize("name", ["reference", "pcqm4mv2"])
def test_the_recipes_of_the_paper_are_the_published_model(name):
    found = read_recipe(PretrainConfig, Path(__file__).parents[1] / "recipes" / f"{name}.toml")
    assert found.encoder == EncoderConfig.published()
    assert found.heads == HeadsConfig.published()
    assert found.readout == "cls"  # as of converted weights
