"""Data of the checkpoint that the package carries: QM9 and corpus3d, less all that is tested on.

python -m benchmarks.interim runs/interim/data.arrow
moleblend pretrain recipes/interim.toml --data runs/interim/data.arrow --out runs/interim/run
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import tyro

from moleblend.build import build_store
from moleblend.datasets import find, read
from moleblend.molecule import Molecule, MoleculeError
from moleblend.splits import read_split, scaffold_split
from moleblend.standardise import canonical, inchikey, largest_fragment
from moleblend.store import MoleculeStore, write_store
from moleblend.tables import Rejected, read_molecules

TESTED = (
    "bace",
    "bbbp",
    "clintox",
    "esol",
    "freesolv",
    "hiv",
    "lipo",
    "muv",
    "sider",
    "tox21",
    "toxcast",
)


def skeleton(smiles: str) -> str:
    """First block of the InChIKey of the largest fragment; its SMILES where there is no key."""
    try:
        parent = largest_fragment(smiles)
    except MoleculeError:
        parent = smiles
    return inchikey(parent)[:14] or canonical(parent)


def tested_on(name: str) -> list[str]:
    """SMILES of the validation and test parts of a set, on protocol U and by `scaffold_split`."""
    texts, split, _ = read_split(read(f"{name}-u"), "split", smiles="smiles")
    held = [texts[row] for part in (split.validation, split.test) for row in part]
    rows = read_molecules(read(name))
    raw = [row.smiles for row in rows if not isinstance(row, Rejected)]
    split = scaffold_split(raw)
    return held + [raw[row] for part in (split.validation, split.test) for row in part]


def tested_skeletons() -> set[str]:
    """Skeletons of all molecules of any validation or test part."""
    with ProcessPoolExecutor() as pool:
        smiles = sorted(set().union(*pool.map(tested_on, TESTED)))
        return set(pool.map(skeleton, smiles, chunksize=500))


def untested(store: MoleculeStore, forbidden: set[str]) -> Iterator[Molecule]:
    """Give the molecules of a store whose skeleton is not forbidden."""
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(skeleton, [m.smiles for m in store], chunksize=500))
    kept = [name not in forbidden for name in found]
    print(f"{store.path.name}: {sum(kept):,} of {len(store):,} molecules are kept", flush=True)
    return (molecule for molecule, is_kept in zip(store, kept, strict=True) if is_kept)


def main(out: tyro.conf.Positional[Path]) -> None:
    """Write the store.

    Args:
        out: the .arrow file; the stores of both sources are left beside it.
    """
    corpus = Path(os.environ["MOLEBLEND_DATA"]) / "corpus3d" / "corpus3d.parquet"
    out.parent.mkdir(parents=True, exist_ok=True)
    forbidden = tested_skeletons()
    print(f"{len(forbidden):,} skeletons are tested on", flush=True)

    def molecules() -> Iterator[Molecule]:
        for source in (find("qm9"), corpus):
            store = out.parent / f"{source.stem}.arrow"
            if not store.is_file():
                build_store(source, store)
            yield from untested(MoleculeStore(store), forbidden)

    n_written = write_store(molecules(), out, features="cip-1")
    print(f"{n_written:,} molecules are in {out}")


if __name__ == "__main__":
    tyro.cli(main)
