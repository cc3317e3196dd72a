"""Fuzz the readers with broken files: no row may be lost, and nothing may crash or hang.

    python -m benchmarks.robustness.fuzz_readers --n-inputs 100000

Each file is written with a known number of rows and read like a user's file. A failure is a missing
or additional row, an exception other than `MoleculeError` for a row or `ValueError` and
`FileNotFoundError` for a file, or an input that takes longer than the limit.
`tests/end_to_end/test_fuzz.py` runs a small number of inputs, and all inputs that failed before.
"""

import csv
import gzip
import io
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from rdkit import Chem
from rdkit.Chem import rdDepictor

from moleblend.chem.molecule import Molecule, MoleculeError
from moleblend.chem.parsing import read_mol_block
from moleblend.chem.xyz import parse_xyz, read_xyz
from moleblend.data.formats import read_pieces
from moleblend.data.table import Rejected, read_molecules

SEEDS = (
    *("CCO", "c1ccccc1C(=O)O", "C[C@H](N)C(=O)O", "F/C=C/F", "[Na+].[Cl-]", "[O-][N+](=O)c1ccccc1"),
    *("CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "C[N+](C)(C)CC(=O)[O-]", "OC1CC1C(F)Cl", "[2H]C([2H])[2H]"),
    *("Cl[Pt](Cl)(<-N)<-N", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "O=S(=O)(N)c1ccc(Cl)cc1", "[CH3]"),
    *("C1CC2CCC1C2", "N#Cc1ccoc1C=O", "CCCCCCCCCCCCCCCCCC(=O)O", "[Fe+2].[O-]C=O.[O-]C=O", "*CC"),
)
LETTERS = "CNOFPSIBclnosp[]()=#@+-/\\.:%0123456789*$~^>{}|?! \t,;\"'HéΩ化\u200b\x00"
FIELDS = ("1.5", "", "NA", "nan", "inf", "-inf", ">10000", "1,5", '"', "'", "1e999", "é", " 7 ")


@dataclass
class Outcome:
    """Results of the inputs.

    Attributes:
        n_inputs: number of rows, records and files.
        counts: number of inputs by result.
        slowest: seconds of the slowest input, and its name.
        failures: a description of each failure, with the file or text to reproduce it.
    """

    n_inputs: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """Which inputs to make.

    Attributes:
        n_inputs: smallest number of inputs.
        seed: random seed.
        limit_s: seconds that one file of 200 rows or one record may take.
    """

    n_inputs: int = 100_000
    seed: int = 0
    limit_s: float = 20.0


class TooSlowError(Exception):
    """An input that took longer than the limit."""


def fuzz(options: Options) -> Outcome:
    """Read random inputs until there are enough."""
    rng, outcome = random.Random(options.seed), Outcome()
    makers = (delimited, delimited, stray_quote, smi, sdf, parquet, junk)
    singles = (mol_block, xyz)
    with tempfile.TemporaryDirectory() as folder:
        while outcome.n_inputs < options.n_inputs:
            path, n_rows = rng.choice(makers)(Path(folder), rng)
            has_rows = n_rows is not None
            read = partial(_read, path, n_rows)
            _check(outcome, options, path.name, read, path, has_rows=has_rows)
            for _ in range(50):
                make = rng.choice(singles)
                name, run = make(rng)
                _check(outcome, options, name, run, None)
    return outcome


def mutate(text: str, rng: random.Random, letters: str = LETTERS) -> str:
    """Change a text in up to four places: delete, insert, repeat or swap letters, or truncate."""
    for _ in range(rng.randrange(5)):
        place = rng.randrange(len(text) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            text = text[:place] + text[place + 1 :]
        elif kind == 1:
            text = text[:place] + rng.choice(letters) + text[place:]
        elif kind == 2:
            text = text[:place] + text[max(0, place - 3) : place] + text[place:]
        elif kind == 3:
            text = text[:place][::-1] + text[place:] if rng.random() < 0.1 else text
        elif rng.random() < 0.3:
            text = text[:place]
    return text


def smiles(rng: random.Random) -> str:
    """Make a SMILES, mostly a broken one."""
    roll = rng.random()
    if roll < 0.002:
        return "C" * rng.choice((600, 3_000))
    if roll < 0.0022:
        return "C" * 10_000_000
    if roll < 0.004:
        return "".join(rng.choice("CNO()[]=#123") for _ in range(500))
    if roll < 0.03:
        return rng.choice(("", " ", "nan", "None", "0", "smiles", "C C", "InChI=1S/CH4/h1H4"))
    return mutate(rng.choice(SEEDS), rng)


def delimited(folder: Path, rng: random.Random) -> tuple[Path, int]:
    """Write a csv or tsv file in one of the dialects that programs use."""
    ending, delimiter = rng.choice(((".csv", ","), (".tsv", "\t")))
    text, n_rows = io.StringIO(newline=""), rng.randrange(1, 200)
    writer = csv.writer(
        text,
        delimiter=delimiter,
        lineterminator=rng.choice(("\n", "\r\n")),
        quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
    )
    writer.writerow(["smiles", "y", "note"])
    for _ in range(n_rows):
        cells = [smiles(rng), rng.choice(FIELDS), mutate("a note", rng)]
        if rng.random() < 0.03:
            cells = [*cells[: rng.randrange(1, 3)], ""]
        elif rng.random() < 0.03:
            cells += ["more", "cells"]
        if not any(cell.strip() for cell in cells):
            cells[-1] = "x"
        writer.writerow(cells)
    encoded = _encode(text.getvalue(), rng)
    path = folder / f"t{ending}"
    if rng.random() < 0.2:
        path, encoded = folder / f"t{ending}.gz", gzip.compress(encoded)
    path.write_bytes(encoded)
    return path, n_rows


def stray_quote(folder: Path, rng: random.Random) -> tuple[Path, int]:
    """Write a csv file in which one row has an unclosed quote."""
    n_rows = rng.randrange(1, 200)
    rows = [f"{rng.choice(SEEDS)},{rng.random():.2f},note" for _ in range(n_rows)]
    row, place = rng.randrange(n_rows), rng.randrange(3)
    cells = rows[row].split(",")
    cells[place] = f'"{cells[place]}'
    rows[row] = ",".join(cells)
    path = folder / "t.csv"
    path.write_text("\n".join(["smiles,y,note", *rows, ""]))
    return path, n_rows


def smi(folder: Path, rng: random.Random) -> tuple[Path, int]:
    """Write an .smi file."""
    lines = []
    for _ in range(rng.randrange(1, 200)):
        text = "".join(smiles(rng).split()) or "C"
        lines.append(text + rng.choice(("", " name", "\tname with blanks", "  ")))
    end = rng.choice(("\n", "\r\n"))
    path = folder / "t.smi"
    text = end.join(lines) + rng.choice(("", end, end + end))
    path.write_bytes(_encode(text, rng))
    # str.splitlines splits at more characters than a file reader does.
    return path, sum(1 for line in io.StringIO(text, newline=None) if line.strip())


def sdf(folder: Path, rng: random.Random) -> tuple[Path, int]:
    """Write an SDF with broken records; only the record separators are intact."""
    records = []
    for _ in range(rng.randrange(1, 40)):
        block = _broken_block(rng)
        fields = f">  <y>\n{rng.choice(FIELDS)}\n\n" if rng.random() < 0.7 else ""
        if rng.random() < 0.05:
            fields += ">  <no end\nx\n"
        records.append(block.rstrip("\n") + "\n" + fields + "$$$$\n")
    text = "".join(records)
    n_records = len(records)
    if rng.random() < 0.1:  # the file ends in the middle of a record
        last = "truncated\n" + _block(rng)[: rng.randrange(1, 60)]
        text += last
        n_records += 1
    path = folder / "t.sdf"
    path.write_bytes(text.encode("latin-1" if rng.random() < 0.1 else "utf-8", "replace"))
    return path, n_records


def parquet(folder: Path, rng: random.Random) -> tuple[Path, int]:
    """Write a Parquet file with coordinates, some of them not finite or too few."""
    texts, lists = [], []
    for _ in range(rng.randrange(1, 200)):
        texts.append(rng.choice((None, smiles(rng), rng.choice(SEEDS))))
        n_values = rng.choice((0, 1, 9, 27, 30, 3 * rng.randrange(12)))
        values = np.random.default_rng(rng.randrange(2**31)).normal(size=n_values)
        for _ in range(rng.choice((0, 0, 1))):
            if n_values:
                odd = rng.choice((np.nan, np.inf, -np.inf, 1e30))
                values[rng.randrange(n_values)] = odd
        lists.append(None if rng.random() < 0.1 else values.astype(np.float32).tolist())
    coordinates = pa.array(lists, pa.list_(pa.float32()))
    path = folder / "t.parquet"
    pq.write_table(
        pa.table({"smiles": pa.array(texts, pa.string()), "coordinates": coordinates}), path
    )
    return path, len(texts)


def junk(folder: Path, rng: random.Random) -> tuple[Path, None]:
    """Write a file that does not match its extension, or in an unusual encoding."""
    name = rng.choice(("t.csv", "t.csv.gz", "t.smi", "t.sdf", "t.sdf.gz", "t.parquet", "t.txt"))
    table = "smiles,y\n" + "".join(f"{smiles(rng)[:99]},1\n" for _ in range(5))
    data = rng.choice(
        (
            table.encode("utf-16"),
            table.encode("utf-32"),
            rng.randbytes(rng.randrange(300)),
            gzip.compress(table.encode())[: rng.randrange(40, 90)],
            b"\x00" * 50,
            b"smiles,smiles\nC,C\n",
            b'"smiles\nC\n',
            b"\n\n\n",
        )
    )
    path = folder / name
    path.write_bytes(data)
    return path, None


def mol_block(rng: random.Random) -> tuple[str, Callable[[], str]]:
    """Make one broken mol block."""
    block = _broken_block(rng)

    def run() -> str:
        try:
            read_mol_block(block, id="x")
        except MoleculeError:
            return "mol block refused"
        return "mol block read"

    return block, run


def xyz(rng: random.Random) -> tuple[str, Callable[[], str]]:
    """Make one XYZ file, broken or with odd numbers, and a SMILES for it."""
    mol = Chem.MolFromSmiles(rng.choice(SEEDS[:8]))
    lines = [str(mol.GetNumAtoms()), "comment"]
    for atom in mol.GetAtoms():
        at = [rng.choice(("nan", "inf", "1e40", f"{rng.uniform(-3, 3):.3f}")) for _ in "xyz"]
        if rng.random() < 0.9:
            at = [f"{rng.uniform(-3, 3):.3f}" for _ in "xyz"]
        lines.append(" ".join([atom.GetSymbol(), *at]))
    text = mutate("\n".join(lines), rng, LETTERS + "\n")
    name = smiles(rng) if rng.random() < 0.3 else Chem.MolToSmiles(mol)

    def run() -> str:
        try:
            numbers, positions = parse_xyz(text)
            read_xyz(numbers, positions, name)
        except MoleculeError:
            return "XYZ refused"
        return "XYZ read"

    return f"{text!r} with {name!r}", run


def _block(rng: random.Random) -> str:
    mol = Chem.MolFromSmiles(rng.choice(SEEDS))
    rdDepictor.Compute2DCoords(mol)
    return Chem.MolToMolBlock(mol, forceV3000=rng.random() < 0.2)


def _broken_block(rng: random.Random) -> str:
    block = _block(rng)
    if rng.random() < 0.3:
        lines = block.split("\n")
        del lines[rng.randrange(len(lines))]
        block = "\n".join(lines)
    block = mutate(block, rng, " 0123456789.-CNOHnaif")
    if rng.random() < 0.1:
        block = block.replace("0.0000", rng.choice(("nan", "inf", "1e99", "     *")), 1)
    if rng.random() < 0.2:
        block = block.replace("\n", "\r\n")
    return block


def _encode(text: str, rng: random.Random) -> bytes:
    if rng.random() < 0.15:
        return text.encode("latin-1", "replace")
    return text.encode("utf-8-sig" if rng.random() < 0.2 else "utf-8", "replace")


def _read(path: Path, n_rows: int | None) -> Iterator[str]:
    """Read a file as `moleblend data build` does, and yield the result of every row.

    `n_rows` is None if the number of rows is not known.
    """
    n_read = 0
    for piece in read_pieces(path, 64):
        items = list(read_molecules(piece))
        if len(items) != len(piece):
            raise AssertionError(f"{len(items)} items of a piece of {len(piece)} rows")
        for item in items:
            n_read += 1
            if isinstance(item, Rejected) and item.row != n_read:
                raise AssertionError(f"got row number {item.row}, expected {n_read}")
            yield "row read" if isinstance(item, Molecule) else "row rejected"
    if n_rows is not None and n_read != n_rows:
        raise AssertionError(f"got {n_read} rows, expected {n_rows}")


def _check(
    outcome: Outcome,
    options: Options,
    name: str,
    run: Callable[[], str | Iterator[str]],
    path: Path | None,
    *,
    has_rows: bool = False,
) -> None:
    """Run one input and record its result; a file that has rows may not be refused."""

    def too_slow(*_: object) -> None:
        raise TooSlowError(f"not done within {options.limit_s:g} s")

    signal.signal(signal.SIGALRM, too_slow)
    signal.setitimer(signal.ITIMER_REAL, options.limit_s)
    started = time.perf_counter()
    try:
        result = run()
        results = [result] if isinstance(result, str) else list(result)
        outcome.n_inputs += len(results)
        outcome.counts.update(results)
    except (ValueError, FileNotFoundError) as error:
        outcome.n_inputs += 1
        if "\n" in str(error):
            outcome.failures.append(f"{name}: the message has several lines: {error!r}")
        if has_rows:
            outcome.failures.append(f"{name}: its rows are lost: {error!r}")
        outcome.counts["file refused"] += 1
    except Exception as error:  # noqa: BLE001 (any exception is a failure)
        outcome.n_inputs += 1
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        if path:
            kept = Path(tempfile.gettempdir()) / f"fuzz-{len(outcome.failures)}-{path.name}"
            shutil.copy(path, kept)
            text += f", kept as {kept}"
        outcome.failures.append(f"{text} {name[:2_000]}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    outcome.slowest = max(outcome.slowest, (time.perf_counter() - started, name[:60]))


def main(options: Options) -> int:
    """Fuzz and print the results."""
    outcome = fuzz(options)
    print(f"{outcome.n_inputs:,} inputs, seed {options.seed}")
    for result, count in outcome.counts.most_common():
        print(f"  {count:9,}  {result}")
    print(f"  slowest: {outcome.slowest[0]:.2f} s, {outcome.slowest[1]!r}")
    print(f"{len(outcome.failures)} failures")
    for failure in outcome.failures[:20]:
        print(failure)
    return int(bool(outcome.failures))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
