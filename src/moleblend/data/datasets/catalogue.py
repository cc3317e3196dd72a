"""Catalogue of published data sets: sources, contents, licences.

The records are in `assets/datasets.toml`.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from moleblend.config import from_dict

_CATALOGUE = Path(__file__).parents[2] / "assets" / "datasets.toml"

Kind = Literal["table", "pcqm4mv2", "sdf", "conformers"]
"""A table is read into memory; PCQM4Mv2, its SDF and sets of many conformers are streamed."""


@dataclass(frozen=True)
class Source:
    """A published file.

    Attributes:
        url: address; `pypi:NAME==VERSION` for the wheel of a package.
        hash: hash of the published file, "sha256:..." or "md5:..."; None if unknown.
    """

    url: str
    hash: str | None = None

    @property
    def name(self) -> str:
        """File name under which the file is stored."""
        if self.url.startswith("pypi:"):
            return self.url.removeprefix("pypi:").replace("==", "-") + "-py3-none-any.whl"
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Counts:
    """Contents of a data set, counted over all rows of the file.

    Attributes:
        rows: number of rows.
        labels: cells with a label.
        positives: labels equal to 1, where labels are classes.
        parsed: rows that were parsed as molecules; in large sets, a regular sample of the rows.
        valid: parsed rows that are molecules.
        largest: heavy atoms of the largest molecule.
        repeated: rows with the same canonical SMILES as an earlier row.
        contradicting: molecules whose rows have different classes, or numbers more than 0.5 apart.
        padded: SMILES with surrounding blanks.
        fails: rows with the word FAIL instead of a SMILES.
        blank_lines: rows followed by an empty line.
    """

    rows: int
    labels: int = 0
    positives: int = 0
    parsed: int = 0
    valid: int = 0
    largest: int = 0
    repeated: int = 0
    contradicting: int = 0
    padded: int = 0
    fails: int = 0
    blank_lines: int = 0


@dataclass(frozen=True)
class Dataset:
    """One data set.

    Attributes:
        title: short description.
        file: path below the data folder, where `fetch` writes the file.
        sources: published files from which the file is made.
        columns: description of the columns.
        split: split protocol.
        licence: licence of the data.
        citation: publications to cite.
        kind: how the file is read.
        task: task type; None for pretraining.
        metric: metric used in the literature.
        tasks: columns with the labels; if empty, all columns except the SMILES and `split`.
        n_tasks: number of columns with labels.
        units: units of the labels, by column.
        smiles: the SMILES column.
        content: SHA-256 of the verified file, computed by `content_sha256`.
        also: other paths below the data folder where the file is searched.
        literature: number of molecules according to the literature.
        expected: contents of the file with hash `content`; molecules as parsed by RDKit 2026.9.1.
        note: what users must know before using the data.
        differs: why the published file may differ from the one with hash `content`.
    """

    title: str
    file: str
    sources: tuple[Source, ...]
    columns: str
    split: str
    licence: str
    citation: str
    kind: Kind = "table"
    task: Literal["classification", "regression"] | None = None
    metric: str = ""
    tasks: tuple[str, ...] = ()
    n_tasks: int = 0
    units: dict[str, str] | None = None
    smiles: str = "smiles"
    content: str | None = None
    also: tuple[str, ...] = ()
    literature: int | None = None
    expected: Counts | None = None
    note: str = ""
    differs: str = ""

    @property
    def classes(self) -> bool:
        """Whether the labels are 0 and 1."""
        return self.task == "classification"

    @property
    def is_as_published(self) -> bool:
        """Whether the file is itself published, and not made from other files."""
        return len(self.sources) == 1 and self.sources[0].name == Path(self.file).name

    def task_names(self, columns: list[str]) -> tuple[str, ...]:
        """Return the columns with labels, given all columns of the file."""
        if self.n_tasks == 0:
            return ()
        others = (self.smiles, "split")
        return self.tasks or tuple(name for name in columns if name not in others)


@cache
def known_datasets() -> dict[str, Dataset]:
    """Read the catalogue: the data sets by name.

    Raises:
        ValueError: the catalogue has an unknown field or a wrong value; the message names it.
    """
    records = tomllib.loads(_CATALOGUE.read_text(encoding="utf-8"))
    return {
        name: from_dict(Dataset, values, f"{_CATALOGUE.name}, {name}")
        for name, values in records.items()
    }


def on_protocol_u() -> tuple[str, ...]:
    """Return the MoleculeNet sets that exist both raw and, as NAME-u, with the split of protocol U.

    Protocol U is the published split that MoleBLEND, GEM and Uni-Mol report.
    """
    names = known_datasets()
    return tuple(sorted(name for name in names if f"{name}-u" in names))
