import multiprocessing
import os
import pickle
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moleblend.chem.molecule import Molecule
from moleblend.chem.parsing import read_smiles
from moleblend.data.store import MoleculeStore, read_batches, write_manifest, write_store


def made(
    n_atoms=3, n_bonds=2, n_conformers=1, id="ünnamed", smiles="CCO", seed=0, has_energies=False
):
    """A molecule of arbitrary numbers, which is all the store cares about."""
    random = np.random.default_rng(seed)
    energies = random.normal(size=n_conformers).astype(np.float32)
    is_known = has_energies and n_conformers > 0
    return Molecule(
        atoms=random.integers(0, 256, (n_atoms, 9), np.uint8),
        bonds=random.integers(0, n_atoms, (n_bonds, 2), np.int32),
        bond_features=random.integers(0, 256, (n_bonds, 3), np.uint8),
        positions=random.normal(size=(n_conformers, n_atoms, 3)).astype(np.float32),
        id=id,
        smiles=smiles,
        source_atoms=random.integers(0, 2**31 - 1, n_atoms, np.int32),
        energies=energies if is_known else None,
        force_field="UFF" if is_known else "",
    )


molecules = st.builds(
    made,
    n_atoms=st.integers(1, 5),
    n_bonds=st.integers(0, 4),
    n_conformers=st.integers(0, 3),
    id=st.text(),
    smiles=st.text(),
    seed=st.integers(0, 99),
    has_energies=st.booleans(),
)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for field in fields(Molecule):
            ours, theirs = getattr(one, field.name), getattr(other, field.name)
            if isinstance(theirs, np.ndarray):
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs)
            else:
                assert ours == theirs


@pytest.fixture
def path(tmp_path):
    """A store of ten molecules in four batches."""
    given = [made(n_atoms=i + 1, n_conformers=i % 3, id=f"m{i}", seed=i) for i in range(10)]
    write_store(given, tmp_path / "ten.arrow", features="cip-1", batch_size=3)
    return tmp_path / "ten.arrow"


def reason(function, *arguments, kind=ValueError, **named):
    with pytest.raises(kind) as caught:
        function(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewritten(path, **metadata):
    """A store with other words in the metadata of its schema."""
    with pa.ipc.open_file(path.read_bytes()) as reader:
        old = {key.decode(): value.decode() for key, value in reader.schema.metadata.items()}
        schema = reader.schema.with_metadata({**old, **metadata})
        batches = [
            reader.get_batch_with_custom_metadata(i) for i in range(reader.num_record_batches)
        ]
    out = path.with_name("rewritten.arrow")
    with pa.ipc.new_file(str(out), schema) as writer:
        for batch, custom in batches:
            writer.write_batch(pa.record_batch(batch.columns, schema=schema), custom)
    return out


@settings(deadline=None)  # the disk sets the pace
@given(given=st.lists(molecules, max_size=7), batch_size=st.integers(1, 8))
def test_what_was_written_is_read(tmp_path_factory, given, batch_size):
    path = tmp_path_factory.mktemp("store") / "s.arrow"
    assert write_store(given, path, features="cip-1", batch_size=batch_size) == len(given)
    assert_same(list(MoleculeStore(path)), given)


def test_awkward_molecules(tmp_path, awkward):
    for version in ("cip-1", "ogb-1"):
        given = [read_smiles(smiles, features=version) for smiles in awkward]
        write_store(iter(given), tmp_path / "s.arrow", features=version)
        store = MoleculeStore(tmp_path / "s.arrow")
        assert store.features == version
        assert_same(list(store), given)


def test_index(path):
    store = MoleculeStore(path)
    assert len(store) == 10
    assert [store[i].id for i in (0, 2, 3, 9, -1, -10)] == ["m0", "m2", "m3", "m9", "m9", "m0"]
    assert store[np.int64(4)].id == "m4"
    for index in (10, -11):
        assert "there are 10" in reason(store.__getitem__, index, kind=IndexError)


def test_arrays_are_views_of_the_mapped_file(path, monkeypatch):
    maps = []
    opened = pa.memory_map

    def remembered(name):
        maps.append(opened(name))
        return maps[-1]

    monkeypatch.setattr(pa, "memory_map", remembered)
    store = MoleculeStore(path)
    (one,) = maps
    one.seek(0)
    mapped = np.frombuffer(one.read_buffer(), np.uint8)
    assert mapped.nbytes == path.stat().st_size
    for molecule in store:
        for field in fields(Molecule):
            array = getattr(molecule, field.name)
            if isinstance(array, np.ndarray) and array.size:
                assert np.shares_memory(array, mapped)
                assert not array.flags.writeable


def test_opening_copies_nothing(tmp_path):
    given = [made(n_atoms=400, n_conformers=50, seed=i) for i in range(20)]
    write_store(given, tmp_path / "s.arrow", features="cip-1", batch_size=5)
    before = pa.total_allocated_bytes()
    store = MoleculeStore(tmp_path / "s.arrow")
    assert_same([store[3]], [given[3]])
    assert pa.total_allocated_bytes() - before < 50_000 < (tmp_path / "s.arrow").stat().st_size


def test_batches_are_written_as_the_molecules_come(tmp_path):
    size = made(n_atoms=400).positions.nbytes
    sizes = []

    def some():
        for i in range(60):
            sizes.extend(path.stat().st_size for path in tmp_path.iterdir())
            yield made(n_atoms=400, seed=i)

    write_store(some(), tmp_path / "s.arrow", features="cip-1", batch_size=4)
    assert len(sizes) == 60  # one file, under a temporary name
    assert all(found >= i // 4 * 4 * size for i, found in enumerate(sizes))


def test_fingerprint_is_that_of_the_content(tmp_path):
    def fingerprint(given, batch_size=1024, features="cip-1"):
        write_store(given, tmp_path / "s.arrow", features=features, batch_size=batch_size)
        return MoleculeStore(tmp_path / "s.arrow").fingerprint

    three = [made(id=str(i), seed=i) for i in range(3)]
    whole = fingerprint(three)
    assert len(whole) == 64
    assert whole == fingerprint(three, batch_size=1)
    assert whole != fingerprint([replace(m, features="ogb-1") for m in three], features="ogb-1")
    moved = replace(three[1], positions=three[1].positions + np.float32(1e-6))
    others = [
        three[:2],
        three[::-1],
        [three[0], moved, three[2]],
        [three[0], replace(three[1], id="4"), three[2]],
        [replace(three[0], id="0C", smiles="CO"), *three[1:]],
        [replace(three[0], energies=np.ones(1, np.float32)), *three[1:]],
        [replace(three[0], force_field="UFF"), *three[1:]],
        [replace(three[0], id="01"), replace(three[1], id=""), three[2]],
        [],
    ]
    assert len({whole, *map(fingerprint, others)}) == len(others) + 1


def test_a_store_can_be_sent_to_a_process(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    store = MoleculeStore(path.name)
    sent = pickle.dumps(store)  # what multiprocessing does; the bytes never were a file
    assert len(sent) < 1000
    monkeypatch.chdir("/")
    assert_same(list(pickle.loads(sent)), list(store))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert_same(pool.map(store.__getitem__, [7, 2]), [store[7], store[2]])


def test_positions_follow_the_number_of_atoms(path):
    shapes = [molecule.positions.shape for molecule in MoleculeStore(path)]
    assert shapes == [(i % 3, i + 1, 3) for i in range(10)]


def test_truncated_at_any_byte(path):
    data = path.read_bytes()
    cut = path.with_name("cut.arrow")
    for n_bytes in [0, 1, 7, 8, *range(100, len(data), 517), len(data) - 1]:
        cut.write_bytes(data[:n_bytes])
        text = reason(MoleculeStore, cut)
        assert text == f"{cut}: the file is truncated or not a moleblend store"


def test_not_a_store(tmp_path):
    other = tmp_path / "other.arrow"
    table = pa.table({"x": [1]})
    with pa.ipc.new_file(str(other), table.schema) as writer:
        writer.write_table(table)
    assert "not a moleblend store" in reason(MoleculeStore, other)
    (tmp_path / "text.arrow").write_text("smiles\nC\n" * 100)
    assert "not a moleblend store" in reason(MoleculeStore, tmp_path / "text.arrow")
    missing = reason(MoleculeStore, tmp_path / "no.arrow", kind=FileNotFoundError)
    assert "no such store" in missing


def test_other_versions(path):
    assert len(MoleculeStore(rewritten(path))) == 10
    assert "got store version 7, expected 2" in reason(MoleculeStore, rewritten(path, version="7"))
    assert "got a store with features 'cip-9', expected cip-1 or ogb-1" in reason(
        MoleculeStore, rewritten(path, features="cip-9")
    )


def test_features_of_all_molecules_agree(tmp_path):
    given = [made(id="a"), replace(made(id="b"), features="ogb-1")]
    text = reason(write_store, given, tmp_path / "s.arrow", features="cip-1")
    assert text == "b: got features ogb-1, but the store has cip-1"
    assert "at least 1" in reason(
        write_store, [], tmp_path / "s.arrow", features="cip-1", batch_size=0
    )
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_store(path):
    old = path.read_bytes()

    def interrupted():
        yield made()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(interrupted(), path, features="cip-1", batch_size=1)
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


def test_an_open_store_survives_its_replacement(path):
    store = MoleculeStore(path)
    write_store([made()], Path(path), features="cip-1")
    assert store[9].id == "m9"
    assert len(MoleculeStore(path)) == 1


# --- folders of shards ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """The ten molecules of `path`, and no others, in three shards of which one is empty."""
    given = [made(n_atoms=i + 1, n_conformers=i % 3, id=f"m{i}", seed=i) for i in range(10)]
    for number, part in enumerate((given[:4], [], given[4:])):
        write_store(part, tmp_path / "ten" / f"shard-{number}.arrow", features="cip-1")
    shards = sorted((tmp_path / "ten").iterdir())
    write_manifest(tmp_path / "ten", shards, features="cip-1")
    return tmp_path / "ten"


def test_a_folder_is_the_store_that_a_file_is(folder, path):
    ours, whole = MoleculeStore(folder), MoleculeStore(path)
    assert ours.fingerprint == whole.fingerprint
    assert_same(list(ours), list(whole))
    assert ours[-7].id == "m3"
    assert_same(list(pickle.loads(pickle.dumps(ours))), list(whole))


def test_a_folder_that_is_not_whole(folder, tmp_path):
    told = (folder / "store.json").read_text()
    (tmp_path / "empty").mkdir()
    assert "not a folder of shards" in reason(MoleculeStore, tmp_path / "empty")
    for damaged in (told[:-20], "{}", "[]", told.replace("fingerprint", "print")):
        (folder / "store.json").write_text(damaged)
        assert "missing or damaged" in reason(MoleculeStore, folder)
    (folder / "store.json").write_text(told.replace('"version": "2"', '"version": "3"'))
    assert "got store version 3" in reason(MoleculeStore, folder)
    (folder / "store.json").write_text(told)
    write_store([made()], folder / "shard-0.arrow", features="cip-1")
    assert "the shards have 7 molecules, but store.json says 10" in reason(MoleculeStore, folder)
    (folder / "shard-2.arrow").unlink()
    missing = reason(MoleculeStore, folder, kind=FileNotFoundError)
    assert "shard-2.arrow: this shard of the store is missing" in missing


def test_a_shard_that_is_cut_while_it_is_read_is_named(folder):
    """To read past the end of a mapped file would kill the process."""
    store = MoleculeStore(folder)
    assert store[0].id
    shard = folder / "shard-0.arrow"
    size = shard.stat().st_size
    os.truncate(shard, 100)
    told = reason(store.__getitem__, 0)
    assert told.endswith(
        f"shard-0.arrow: the file had {size:,} bytes when it was opened, and has 100 now"
    )
    shard.unlink()


def test_batches_of_a_file_that_is_no_store(tmp_path):
    for name in ("t.arrow", "t.parquet"):
        (tmp_path / name).write_text("smiles\nC\n")
        assert "not a moleblend store" in reason(
            lambda path: list(read_batches(path)), tmp_path / name
        )
