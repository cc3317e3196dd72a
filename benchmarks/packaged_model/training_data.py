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
    """Yield the molecules of a store whose skeleton is not forbidden."""
    kept = [name not in forbidden for name in skeletons_of(store)]
    print(f"{store.path.name}: {sum(kept):,} of {len(store):,} molecules are kept", flush=True)
    return (molecule for molecule, is_kept in zip(store, kept, strict=True) if is_kept)


def main(out: tyro.conf.Positional[Path], skeletons: Path = SKELETONS) -> None:
    """Write the store, unless it exists, and the list of its skeletons.

    Args:
        out: the .arrow file; the stores of both sources are kept in the same folder.
        skeletons: path of the list.
    """
    forbidden = tested_skeletons()
    print(f"{len(forbidden):,} skeletons are tested on", flush=True)
    if not out.is_file():
        _write_store(out, forbidden)
    store = MoleculeStore(out)
    trained, tested = hashed(skeletons_of(store)), hashed(forbidden)
    n_shared = len(np.intersect1d(trained, tested, assume_unique=True))
    if n_shared:
        raise ValueError(
            f"{out}: {n_shared} of its skeletons are tested on; delete the store to rebuild it"
        )
    SkeletonList(store.fingerprint, contents(), trained, tested).write(skeletons)
    text = f"{len(store):,} molecules of {len(trained):,} skeletons, none of them tested on"
    print(f"{text}: {skeletons}")


def _write_store(out: Path, forbidden: set[str]) -> None:
    corpus = Path(os.environ["MOLEBLEND_DATA"]) / "corpus3d" / "corpus3d.parquet"

    def molecules() -> Iterator[Molecule]:
        for source in (find("qm9"), corpus):
            store = out.parent / f"{source.stem}.arrow"
            if not store.is_file():
                build_store(source, store)
            yield from untested(MoleculeStore(store), forbidden)

    n_written = write_store(molecules(), out, features="cip-1")
    print(f"{out}: {n_written:,} molecules")


if __name__ == "__main__":
    tyro.cli(main)
