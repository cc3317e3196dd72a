import re
from dataclasses import fields
from pathlib import Path

import pytest

from moleblend.data.datasets import catalogue
from moleblend.data.datasets.catalogue import Counts, Dataset, Source, known_datasets, on_protocol_u
from moleblend.data.datasets.converters import QM9_UNITS

MOLECULENET = ["bbbp", "tox21", "toxcast", "sider", "clintox", "muv", "hiv", "bace", "esol"]
MOLECULENET += ["freesolv", "lipo"]


def test_the_catalogue_is_complete() -> None:
    on_u = [f"{name}-u" for name in MOLECULENET]
    others = ["qm9", "pcqm4mv2", "pcqm4mv2-3d", "moses", "geom-drugs"]
    assert list(known_datasets()) == [*MOLECULENET, *on_u, *others]
    assert on_protocol_u() == tuple(sorted(MOLECULENET))
    assert known_datasets()["qm9"].units == QM9_UNITS


def test_one_record_of_the_catalogue() -> None:
    assert known_datasets()["freesolv"] == Dataset(
        title="free energy of hydration",
        file="moleculenet/SAMPL.csv",
        sources=(
            Source("https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/SAMPL.csv", None),
        ),
        columns="iupac, smiles, expt, calc",
        split="none in the file; `train` splits by scaffold, 80/10/10 (protocol H)",
        licence="CC BY-NC-SA 4.0: not for commercial use",
        citation="Mobley and Guthrie, J. Comput. Aided Mol. Des. 2014, "
        "doi:10.1007/s10822-014-9747-x; "
        "Wu et al., Chem. Sci. 2018, doi:10.1039/C7SC02664A",
        kind="table",
        task="regression",
        metric="RMSE",
        tasks=("expt",),
        n_tasks=1,
        units={"expt": "kcal/mol"},
        smiles="smiles",
        content="ab5895d914ee87cb563bd7b9611e869527bba45bec6b014d34dc495a0f9dcb72",
        also=("moleculenet/SAMPL.csv.gz",),
        literature=642,
        expected=Counts(rows=642, labels=642, parsed=642, valid=642, largest=24),
        note=known_datasets()["freesolv"].note,
        differs="",
    )


def test_an_unknown_field_is_refused_with_the_name_of_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sets.toml"
    path.write_text('[mine]\ntitle = "x"\ncolour = "red"\n')
    monkeypatch.setattr(catalogue, "_CATALOGUE", path)
    with pytest.raises(ValueError, match=r"^sets\.toml, mine: .*colour"):
        known_datasets.__wrapped__()


@pytest.mark.parametrize("name", known_datasets())
def test_each_record_is_complete(name: str) -> None:
    known = known_datasets()[name]
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
    files = [file for other in known_datasets().values() for file in (other.file, *other.also)]
    assert len(files) == len(set(files))


def test_fields_have_a_line_each() -> None:
    assert Dataset.__doc__
    for field in fields(Dataset):
        assert f"        {field.name}: " in Dataset.__doc__
