import re
from xml.etree import ElementTree

import numpy as np
import pytest
from jinja2 import UndefinedError

from moleblend.reports.html_page import as_sentence, format_number, render, write_page
from moleblend.reports.plots import (
    BLUE,
    ORANGE,
    Plot,
    add_legend,
    draw_matrix,
    finish_plot,
    new_axes,
    or_a_note,
    scatter,
)
from tests.helpers.html import read_page


def line_plot(title: str, values: list[float]) -> Plot:
    axes = new_axes("x < $y", "y")
    axes.plot(values, color=BLUE, marker=".", label="a & b")
    add_legend(axes)
    return finish_plot(axes, title, "caption")


def test_colours_follow_the_page() -> None:
    svg = str(line_plot("a <title>", [1.0, 2.0]).svg)
    assert svg.count("var(--blue)") >= 2
    assert "var(--ink)" in svg
    assert not re.search(r": #(?!fff)[0-9a-f]{6}", svg)
    tree = ElementTree.fromstring(svg)
    assert tree.attrib["aria-label"] == "a <title>"
    assert "width" not in tree.attrib
    assert "height" not in tree.attrib
    texts = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"x < $y", "a & b"} <= set(texts)


def test_plots_of_a_page_share_no_names() -> None:
    plots = [line_plot("first", [1.0, 2.0]), line_plot("second", [1.0, 2.0])]
    names = [
        {
            element.attrib["id"]
            for element in ElementTree.fromstring(str(p.svg)).iter()
            if "id" in element.attrib
        }
        for p in plots
    ]
    assert names[0]
    assert not names[0] & names[1]
    for plot in plots:
        svg = str(plot.svg)
        used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg))
        assert used <= set(re.findall(r'id="([^"]+)"', svg))


def test_many_points_become_an_image() -> None:
    for n, has_image in ((100, False), (6000, True)):
        axes = new_axes("x", "y")
        scatter(axes, np.arange(float(n)), np.arange(float(n)), ORANGE)
        svg = str(finish_plot(axes, "points").svg)
        assert ("<image" in svg) == has_image
        assert len(svg) < 400_000


def test_a_matrix_keeps_a_white_background() -> None:
    plot = draw_matrix("m", np.eye(2), np.array([["a", "b"], ["c", "d"]]), "Blues", "caption")
    assert plot.is_on_white
    assert re.findall(r">([abcd])</text>", str(plot.svg)) == ["a", "b", "c", "d"]


def test_a_template_refuses_a_missing_value(tmp_path) -> None:
    with pytest.raises(UndefinedError):
        write_page(tmp_path / "page.html", "search.html")
    assert not (tmp_path / "page.html").exists()


def test_text_is_escaped() -> None:
    page = render("uncertainty.html", uncertainty=[], uncertainty_notes=["<b>&'\""])
    assert read_page(f"<main>{page}</main>").find("p").text == "<b>&'\"."


def test_numbers_and_sentences() -> None:
    assert [format_number(value) for value in (None, "", 0.123456, 12345, "3", 10.5)] == [
        *("undefined", "undefined", "0.1235", "12,345", "3", "10.5"),
    ]
    assert as_sentence("a rule.") == "A rule."
    assert as_sentence("logP: a rule", starts_with_name=True) == "logP: a rule."


@pytest.mark.parametrize(
    "error", [ValueError("too <many> bins"), OverflowError(), ZeroDivisionError()]
)
def test_a_failing_plot_is_left_out_and_said(error: Exception) -> None:
    @or_a_note
    def one() -> Plot:
        raise error

    @or_a_note
    def several() -> list[Plot]:
        raise error

    (plot,) = several()
    assert one().svg == plot.svg
    assert "A plot is left out" in plot.svg
    assert "<many>" not in plot.svg
