import os
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moleblend.chem.conformers import ConformerConfig, Conformers, ConformerWorker
from moleblend.chem.geometry import TooSlowError, add_positions
from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import read_smiles


def stuck(molecule, **_):
    """Never comes back for propane."""
    while molecule.smiles == "CCC":
        time.sleep(60)
    return replace(molecule, id=str(os.getpid()))


def crashing(molecule, **_):
    if molecule.smiles == "CCC":
        os.abort()
    return molecule


def counted(molecule, *, seed, n_conformers, prune_rms, limit_s):
    """Says on disk that it was called: it runs in another process."""
    with Path(os.environ["CALLS"]).open("a") as file:
        file.write(f"{molecule.id}\n")
    if molecule.id == "odd":
        raise MoleculeError("odd: could not be embedded")
    if molecule.id == "slow" and limit_s < 2:
        raise TooSlowError("slow: could not be embedded within that")
    return add_positions(molecule, seed=seed, n_conformers=n_conformers, prune_rms=prune_rms)


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The function that gives the molecules that were computed since it was last called."""
    path = tmp_path / "calls"
    monkeypatch.setenv("CALLS", str(path))

    def taken():
        found = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    return taken


def same(one, other):
    assert one.id == other.id
    assert one.force_field == other.force_field
    np.testing.assert_array_equal(one.positions, other.positions)
    np.testing.assert_array_equal(one.energies, other.energies)


def test_a_worker_gives_what_add_positions_gives():
    with closing(ConformerWorker(ConformerConfig(n_conformers=3, seed=5, prune_rms=0.1))) as worker:
        for smiles in ("CCO", "CC(=O)[O-].[Na+]", "CB(O)O"):
            expected = add_positions(read_smiles(smiles), seed=5, n_conformers=3, prune_rms=0.1)
            same(worker.add_positions(read_smiles(smiles)), expected)
        with pytest.raises(MoleculeError, match="finds no geometry"):
            worker.add_positions(read_smiles("C1C[C@@H]2C[C@@H]1C2"))


def test_a_stuck_molecule_is_given_up_and_the_next_one_computed():
    with closing(ConformerWorker(ConformerConfig(limit_s=0.3), stuck)) as worker:
        first = worker.add_positions(read_smiles("C")).id
        begin = time.monotonic()
        with pytest.raises(TooSlowError, match=r"^CCC: no geometry within 0\.3 s$"):
            worker.add_positions(read_smiles("CCC"))
        assert 0.3 <= time.monotonic() - begin < 1.3
        with pytest.raises(ProcessLookupError):
            os.kill(int(first), 0)
        second = worker.add_positions(read_smiles("C")).id
        assert worker.add_positions(read_smiles("CC")).id == second
        assert second not in (first, str(os.getpid()))


def test_the_limit_holds_where_the_clock_of_rdkit_is_not_read():
    """RDKit sets up the bounds of 1,200 atoms for longer than this, with no look at its clock."""
    large = read_smiles("C" * 400)
    with closing(ConformerWorker(ConformerConfig(limit_s=0.2))) as worker:
        worker.add_positions(read_smiles("C"))
        begin = time.monotonic()
        with pytest.raises(TooSlowError, match=r"no geometry within 0\.2 s"):
            worker.add_positions(large)
        assert time.monotonic() - begin < 1
        assert worker.add_positions(read_smiles("CO")).n_conformers == 1


def test_a_crash_is_the_molecules_own(tmp_path):
    config = ConformerConfig(cache=tmp_path)
    with closing(Conformers(config, crashing)) as conformers:
        for _ in range(2):  # not remembered
            with pytest.raises(MoleculeError, match="CCC: RDKit crashed"):
                conformers.add_positions(read_smiles("CCC"))
    with closing(Conformers(config)) as conformers:
        assert conformers.add_positions(read_smiles("CCC")).n_conformers == 1


def test_a_second_run_computes_nothing(tmp_path, calls):
    molecules = [
        read_smiles(smiles, id=f"m{k}") for k, smiles in enumerate(["CCO", "CB(O)O", "[Rn]"])
    ]
    odd = read_smiles("CN", id="odd")
    config = ConformerConfig(n_conformers=2, seed=1, cache=tmp_path / "kept")

    def run(config):
        with closing(Conformers(config, counted)) as conformers:
            found = [conformers.add_positions(molecule) for molecule in molecules]
            with pytest.raises(MoleculeError, match=r"^odd: could not be embedded$"):
                conformers.add_positions(odd)
        return found

    first = run(config)
    assert calls() == ["m0", "m1", "m2", "odd"]
    second = run(config)
    assert calls() == []
    for one, other, molecule in zip(first, second, molecules, strict=True):
        same(one, other)
        same(one, add_positions(molecule, seed=1, n_conformers=2))
    for changed in (
        replace(config, seed=2),
        replace(config, n_conformers=1),
        replace(config, prune_rms=0.5),
        replace(config, cache=None),
    ):
        run(changed)
        assert len(calls()) == 4


def test_content_is_the_key(tmp_path, calls):
    config = ConformerConfig(cache=tmp_path / "kept")
    with closing(Conformers(config, counted)) as conformers:
        one = conformers.add_positions(read_smiles("CCO", id="a"))
        other = conformers.add_positions(read_smiles("OCC", id="b"))
        assert calls() == ["a"]
        assert (one.id, other.id) == ("a", "b")
        np.testing.assert_array_equal(one.positions, other.positions)
        conformers.add_positions(read_smiles("OCC", id="c", features="ogb-1"))
        assert calls() == ["c"]


def test_lack_of_time_is_remembered_only_for_so_much_time(tmp_path, calls):
    slow = read_smiles("CCO", id="slow")
    config = ConformerConfig(limit_s=1.5, cache=tmp_path / "kept")
    for limit_s, n_calls in [(1.5, 1), (1.5, 0), (0.5, 0), (1.75, 1), (2.5, 1)]:
        with closing(Conformers(replace(config, limit_s=limit_s), counted)) as conformers:
            if limit_s < 2:
                with pytest.raises(TooSlowError, match=f"slow: no geometry within {limit_s} s"):
                    conformers.add_positions(slow)
            else:
                assert conformers.add_positions(slow).n_conformers == 1
        assert len(calls()) == n_calls


def test_what_cannot_be_a_cache(tmp_path):
    (tmp_path / "conformers.sqlite").write_text("no database" * 1000)
    with pytest.raises(OSError, match="conformer cache cannot be used") as caught:
        Conformers(ConformerConfig(cache=tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"n_conformers": 0}, {"seed": -1}, {"prune_rms": -0.1}, {"limit_s": 0.0}]
)
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=r"got .*, expected at least"):
        ConformerConfig(**wrong)
