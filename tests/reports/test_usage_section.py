"""The commands of the report run as they are."""

import html
import re
import shlex
from dataclasses import replace

import pytest

from moleblend.cli import main as cli
from moleblend.reports.train_report import write_train_report
from tests.helpers.html import words
from tests.helpers.molecules import CHAINS, HAS_OXYGEN, N_CARBONS, PARTS
from tests.helpers.runs import trained
from tests.helpers.tables import write


@pytest.mark.parametrize("kind", ["value", "classes", "descriptors", "many"])
def test_every_command_runs(tmp_path, monkeypatch, kind):
    targets = {"y": N_CARBONS}
    if kind == "classes":
        targets = {"y": [("a", "b", "c")[k % 3] for k in range(len(CHAINS))]}
    if kind == "many":
        targets = {f"t {k}": HAS_OXYGEN for k in range(5)}
    write(tmp_path / "table.csv", smiles=CHAINS, set=PARTS, **targets)
    features = ("ecfp4", "descriptors") if kind == "descriptors" else ("auto",)
    result, _, _ = trained(tmp_path, split="set", target=tuple(targets), features=features)
    page = write_train_report(result, tmp_path / "report.html")
    write(tmp_path / "molecules.csv", smiles=["CCO", "CCN", "nonsense"])
    monkeypatch.chdir(tmp_path)
    shell, python = map(html.unescape, re.findall("<pre>(.*?)</pre>", page.read_text(), re.DOTALL))
    lines = [shlex.split(line, comments=True) for line in shell.splitlines()]
    assert {line[0] for line in lines} == {"moleblend"}
    for line in lines:
        assert cli.main(line[1:]) == 0, line
    commands = [line[1] for line in lines]
    assert commands.count("predict") == (1 if kind == "classes" else 2)
    assert ("explain" in commands) == (kind in ("value", "many"))
    assert ("explain does not support" in words(page)) == (kind in ("classes", "descriptors"))
    names: dict = {}
    exec(python, names)
    assert names["table"].num_rows == 2
    assert len(names["frame"]) == 3
    assert names["vectors"].shape == (2, 16)
    for name in result.settings.prediction_columns:
        assert name in names["frame"].columns


def test_computed_geometries_need_a_guard_in_a_script(tmp_path):
    write(tmp_path / "table.csv", smiles=CHAINS, y=N_CARBONS, set=PARTS)
    result, _, _ = trained(tmp_path, split="set")
    page = write_train_report(result, tmp_path / "report.html")
    assert "__main__" not in words(page)
    computed = replace(result, config=replace(result.config, conformers=1))
    assert '__name__ == "__main__"' in words(write_train_report(computed, tmp_path / "2.html"))
