r"""Make the training data of the packaged model: QM9 and corpus3d without test molecules.

    python -m benchmarks.packaged_model.training_data runs/packaged_model/data.arrow
    moleblend pretrain recipes/packaged_stage1.toml --data runs/packaged_model/data.arrow \
        --out runs/packaged_model/stage1 --schedule.steps 28000
    moleblend pretrain recipes/packaged_stage2.toml --data runs/packaged_model/data.arrow \
        --from runs/packaged_model/stage1/model.safetensors --out runs/packaged_model/stage2
    python -m benchmarks.packaged_model.publish runs/packaged_model/stage2

The first command also writes `benchmarks/results/packaged_model/skeletons.safetensors`: hashes of
the skeletons in the store and of those in validation and test sets. With it, a test shows in
seconds that they share none. The list belongs to one store, whose fingerprint it contains, and so
does the model.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import UInt64
from pandas import DataFrame, concat, read_csv
from safetensors import safe_open
from safetensors.numpy import save_file

from benchmarks.results.csv_files import RESULTS
from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.chem.standardise import canonical, inchikey, largest_fragment
from moleblend.data.build_store import build_store
from moleblend.data.datasets.catalogue import on_protocol_u
from moleblend.data.datasets.fetch import content_sha256, find, read
from moleblend.data.splits import read_split, scaffold_split
from moleblend.data.store import MoleculeStore, write_store
from moleblend.data.table import Rejected, read_molecules
from moleblend.files import replacing
from moleblend.model.integrity import put_in_order

ASSAYS = ("hiv", "muv", "tox21", "toxcast")
"""Data sets of protocol U whose training sets give molecules and labels."""

MOST_ATOMS = 50
"""Larger molecules are left out: 0.4 % of all, and a batch of them takes 12 GB with pair states."""

SKELETONS = RESULTS / "packaged_model" / "skeletons.safetensors"


@dataclass(frozen=True, eq=False)
class SkeletonList:
    """Sorted hashes of the skeletons in a store and in the validation and test sets.

    Attributes:
        fingerprint: fingerprint of the store.
        contents: SHA-256 of the content of each data set that is tested on.
        trained: hashes of all molecules in the store.
        tested: hashes of all molecules in any validation or test set.
    """

    fingerprint: str
    contents: dict[str, str]
    trained: UInt64[np.ndarray, " n"]
    tested: UInt64[np.ndarray, " m"]

    def write(self, path: Path = SKELETONS) -> None:
        """Write the list to one file."""
        tensors = {
            name: np.ascontiguousarray(hashes.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :6])
            for name, hashes in (("trained", self.trained), ("tested", self.tested))
        }
        with replacing(path) as temporary:
            save_file(tensors, temporary, {"fingerprint": self.fingerprint, **self.contents})
            put_in_order(temporary)

    @classmethod
    def read(cls, path: Path = SKELETONS) -> "SkeletonList":
        """Read the list of one file."""
        with safe_open(path, framework="np") as file:
            contents = dict(file.metadata())
            fingerprint = contents.pop("fingerprint")
            trained, tested = (
                np.pad(file.get_tensor(name), ((0, 0), (0, 2))).view("<u8")[:, 0]
                for name in ("trained", "tested")
            )
            return cls(fingerprint, contents, trained, tested)


def hashed(skeletons: Iterable[str]) -> UInt64[np.ndarray, " n"]:
    """Sorted unique hashes of skeletons: the first 6 bytes of an 8-byte BLAKE2b digest.

    The probability of a collision between 250,000 and 30,000 different skeletons is 3e-5.
    """
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest()[:6] for name in skeletons]
    return np.unique(np.frombuffer(b"".join(digest + b"\0\0" for digest in digests), "<u8"))


def skeleton(smiles: str) -> str:
    """First block of the InChIKey of the largest fragment; its SMILES if there is no InChIKey."""
    try:
        parent = largest_fragment(smiles)
    except MoleculeError:
        parent = smiles
    return inchikey(parent)[:14] or canonical(parent)


def tested_on(name: str) -> list[str]:
    """SMILES of the validation and test sets, on protocol U and of `scaffold_split`."""
    texts, split, _ = read_split(read(f"{name}-u"), "split", smiles="smiles")
    held = [texts[row] for rows in (split.validation, split.test) for row in rows]
    items = read_molecules(read(name))
    raw = [item.smiles for item in items if not isinstance(item, Rejected)]
    split = scaffold_split(raw)
    return held + [raw[row] for rows in (split.validation, split.test) for row in rows]


def tested_skeletons() -> set[str]:
    """Skeletons of all molecules in any validation or test set."""
    with ProcessPoolExecutor() as pool:
        smiles = sorted(set().union(*pool.map(tested_on, on_protocol_u())))
        return set(pool.map(skeleton, smiles, chunksize=500))


def contents() -> dict[str, str]:
    """SHA-256 of the content of each data file that is tested on."""
    return {
        name: content_sha256(find(name)) for raw in on_protocol_u() for name in (raw, f"{raw}-u")
    }


def skeletons_of(store: MoleculeStore) -> list[str]:
    """Skeleton of each molecule of a store."""
    with ProcessPoolExecutor() as pool:
        return list(pool.map(skeleton, (m.smiles for m in store), chunksize=500))


def untested(store: MoleculeStore, forbidden: set[str]) -> Iterator[Molecule]:
    """Yield the molecules of a store whose skeleton is not forbidden, of at most `MOST_ATOMS`."""
    is_small = store.n_atoms() <= MOST_ATOMS
    names = zip(skeletons_of(store), is_small, strict=True)
    kept = [name not in forbidden and small for name, small in names]
    print(f"{store.path.name}: {sum(kept):,} of {len(store):,} molecules are kept", flush=True)
    return (molecule for molecule, is_kept in zip(store, kept, strict=True) if is_kept)


@dataclass(frozen=True)
class Sources:
    """How many molecules each source gives.

    Attributes:
        qm9: molecules of QM9, with DFT geometry, drawn at random.
        moses: further drug-like molecules of MOSES without geometry, the first ones of its file.
        moses_file: `train.csv.gz` of the PyPI package molsets 0.3.1; none is used if left out.
    """

    qm9: int = 40_000
    moses: int = 50_000
    moses_file: Path | None = None


def main(
    out: tyro.conf.Positional[Path],
    skeletons: Path = SKELETONS,
    sources: Sources = Sources(),
) -> None:
    """Write the store, unless it exists, the table of its labels, and the list of its skeletons.

    Args:
        out: the .arrow file; the stores of all sources are kept in the same folder.
        skeletons: path of the list.
        sources: how many molecules each source gives.
    """
    forbidden = tested_skeletons()
    print(f"{len(forbidden):,} skeletons are tested on", flush=True)
    if not out.is_file():
        _write_store(out, forbidden, sources)
    store = MoleculeStore(out)
    labels = out.with_name("labels.parquet")
    if not labels.is_file():
        write_labels(store, labels)
    trained, tested = hashed(skeletons_of(store)), hashed(forbidden)
    n_shared = len(np.intersect1d(trained, tested, assume_unique=True))
    if n_shared:
        raise ValueError(
            f"{out}: {n_shared} of its skeletons are tested on; delete the store to rebuild it"
        )
    SkeletonList(store.fingerprint, contents(), trained, tested).write(skeletons)
    text = f"{len(store):,} molecules of {len(trained):,} skeletons, none of them tested on"
    print(f"{text}: {skeletons}")


def _write_store(out: Path, forbidden: set[str], sources: Sources) -> None:
    corpus = Path(os.environ["MOLEBLEND_DATA"]) / "corpus3d" / "corpus3d.parquet"
    folder = out.parent

    def built(source: Path, store: Path) -> Iterator[Molecule]:
        if not store.is_file():
            build_store(source, store)
        return untested(MoleculeStore(store), forbidden)

    def molecules() -> Iterator[Molecule]:
        rows = np.random.default_rng(0).permutation(130_000)[: sources.qm9]
        chosen = set(rows.tolist())
        qm9 = built(find("qm9"), folder / "qm9.arrow")
        yield from (molecule for row, molecule in enumerate(qm9) if row in chosen)
        seen = set()
        for molecule in built(corpus, folder / "corpus3d.arrow"):
            seen.add(molecule.smiles)
            yield molecule
        smiles = folder / "bioassay.csv"
        if not smiles.is_file():
            write_bioassay_smiles(smiles)
        further = [built(smiles, folder / "bioassay.arrow")]
        if sources.moses_file is not None:
            moses = folder / "moses.csv"
            if not moses.is_file():
                write_moses_smiles(sources.moses_file, moses, sources.moses)
            further.append(built(moses, folder / "moses.arrow"))
        for source in further:
            for molecule in source:
                if molecule.smiles not in seen:
                    seen.add(molecule.smiles)
                    yield molecule

    n_written = write_store(molecules(), out, features="cip-1")
    print(f"{out}: {n_written:,} molecules")


def write_bioassay_smiles(path: Path) -> None:
    """Write the SMILES of the training sets of protocol U with bioassays."""
    smiles: dict[str, None] = {}
    for name in ASSAYS:
        table = read_csv(find(f"{name}-u"))
        smiles |= dict.fromkeys(table.loc[table["split"] == "train", "smiles"])
    DataFrame({"smiles": list(smiles)}).to_csv(path, index=False)


def write_moses_smiles(source: Path, path: Path, n: int) -> None:
    """Write the first SMILES of the training file of MOSES."""
    read_csv(source, nrows=n)[["SMILES"]].to_csv(path, index=False)


def write_labels(store: MoleculeStore, path: Path) -> None:
    """Write the measured labels of the molecules of a store, one row per molecule that has any.

    The labels are those of the training sets of protocol U with bioassays. A molecule is identified
    by its canonical SMILES as the store has it.
    """
    tables = []
    for name in ASSAYS:
        table = read_csv(find(f"{name}-u"))
        table = table[table["split"] == "train"].drop(columns="split")
        table["smiles"] = [canonical_or_none(text) for text in table["smiles"]]
        table = table.dropna(subset="smiles").groupby("smiles").mean()
        tables.append(table.add_prefix(f"{name}: "))
    labels = concat(tables, axis=1).astype("float32")
    known = {molecule.smiles for molecule in store}
    labels = labels[labels.index.isin(known)]
    labels = labels.loc[:, labels.nunique() > 1]
    labels.rename_axis("smiles").reset_index().to_parquet(path, index=False)
    print(f"{path}: {labels.shape[1]} labels of {len(labels):,} molecules", flush=True)


def canonical_or_none(smiles: str) -> str | None:
    """Return the canonical SMILES, or None if the SMILES is invalid."""
    try:
        return canonical(smiles)
    except MoleculeError:
        return None


if __name__ == "__main__":
    tyro.cli(main)
