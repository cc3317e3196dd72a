"""Broken input of every kind; more of it: `python -m benchmarks.robustness.fuzz_readers`."""

import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.robustness.fuzz_readers import Options, fuzz
from moleblend.chem.molecule import MoleculeError
from moleblend.chem.parsing import read_smiles
from moleblend.data.formats import read_table
from moleblend.data.table import Rejected, read_molecules


@pytest.mark.parametrize("seed", [0, 3])
def test_every_input_comes_back(seed):
    outcome = fuzz(Options(n_inputs=4_000, seed=seed))
    assert not outcome.failures
    expected = {"row read", "row rejected", "mol block read", "mol block refused", "XYZ refused"}
    assert expected <= outcome.counts.keys()


def test_a_failure_is_seen(monkeypatch):
    """The run can fail: a reader that loses a row, one that crashes, one that hangs."""
    import benchmarks.robustness.fuzz_readers as module

    real = module.read_molecules
    monkeypatch.setattr(module, "read_molecules", lambda piece: list(real(piece))[1:])
    assert fuzz(Options(n_inputs=200)).failures

    def crash(_):
        raise IndexError("planted")

    monkeypatch.setattr(module, "read_molecules", crash)
    assert any("planted" in failure for failure in fuzz(Options(n_inputs=200)).failures)

    def hang(_):
        time.sleep(60)

    monkeypatch.setattr(module, "read_molecules", hang)
    slow = fuzz(Options(n_inputs=30, limit_s=0.2)).failures
    assert any("not done within 0.2 s" in failure for failure in slow)


def test_more_positions_than_atoms(tmp_path):
    lists = [[0.0] * 9, [0.0] * 12, [], [1.0, 0, 0, 2, 0, 0, 3, 1, np.nan], [1e30] * 9]
    columns = {"smiles": ["CCO"] * 5, "coordinates": pa.array(lists, pa.list_(pa.float32()))}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    items = list(read_molecules(read_table(tmp_path / "t.parquet")))
    reasons = [item.reason for item in items if isinstance(item, Rejected)]
    assert reasons[-4:] == [
        "got 4 positions for 3 atoms",
        "got 0 positions for 3 atoms",
        *["positions must be numbers in Å below 100,000"] * 2,
    ]


def test_a_bond_without_an_order_beside_a_stereocentre():
    """RDKit's CIP rules refuse the whole molecule."""
    assert read_smiles("C[C@H](N)C(=O)~O").n_atoms == 6


def test_a_smiles_of_ten_megabytes_is_one_rejected_row(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text(f"smiles,y\nCC,1\n{'C' * 10_000_000},2\nCCO,3\n")
    first, long, last = read_molecules(read_table(path))
    assert isinstance(long, Rejected)
    assert "10,000,000 characters" in long.reason
    assert len(long.reason) < 200
    assert (first.n_atoms, last.n_atoms) == (2, 3)
    with pytest.raises(MoleculeError) as caught:
        read_smiles("C" * 30_000)
    assert len(str(caught.value)) < 200
