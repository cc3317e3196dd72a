import re
from dataclasses import fields

import pytest

from moleblend.data.datasets.catalogue import DATASETS, Dataset

MOLECULENET = ["bbbp", "tox21", "toxcast", "sider", "clintox", "muv", "hiv", "bace", "esol"]
MOLECULENET += ["freesolv", "lipo"]


def test_the_sets_are_there() -> None:
    on_u = [f"{name}-u" for name in MOLECULENET]
    others = ["qm9", "pcqm4mv2", "pcqm4mv2-3d", "moses", "geom-drugs"]
    assert list(DATASETS) == [*MOLECULENET, *on_u, *others]


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_known_is_complete(name: str) -> None:
    known = DATASETS[name]
    for key in ("title", "file", "sources", "columns", "split", "licence", "citation"):
        assert getattr(known, key), key
    assert not known.content or re.fullmatch("[0-9a-f]{64}", known.content)
    for source in known.sources:
        assert re.match(r"https?://\S+$|pypi:[\w-]+==[\d.]+$", source.url)
        assert source.hash is None or re.fullmatch(
            "md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", source.hash
        )
    assert bool(known.task) == bool(known.metric) == bool(known.n_tasks)
    assert known.tasks == () or len(known.tasks) == known.n_tasks
    if known.task == "regression":
        assert set(known.tasks) <= set(known.units or {})
    files = [file for other in DATASETS.values() for file in (other.file, *other.also)]
    assert len(files) == len(set(files))


def test_fields_have_a_line_each() -> None:
    assert Dataset.__doc__
    for field in fields(Dataset):
        assert f"        {field.name}: " in Dataset.__doc__
