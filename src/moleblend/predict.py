"""From molecules in any form to a table: one row out for every row in, in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32

from moleblend import checkpoint
from moleblend.batch import Batch, collate
from moleblend.blending import Views, show
from moleblend.chem import add_positions
from moleblend.molecule import FeatureVersion, Molecule, MoleculeError
from moleblend.tables import (
    Rejected,
    Table,
    read_molecules,
    read_table,
    replacing,
    smiles_table,
    write_table,
)

Errors = Literal["keep", "skip", "raise"]
Source = str | Path | Sequence[str] | Sequence[Molecule]

_PAIRS_AT_ONCE = 60_000
_MOLECULES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Row:
    """One input row.

    Attributes:
        molecule: None where the row cannot be used.
        status: `ok`, `ok_2d_only` (the model uses geometry, this row has none), `invalid` (no molecule),
            `too_large`, or `no_3d` (only geometry was to be used, this row has none).
        reason: why the status is not `ok`; empty where it is.
    """

    molecule: Molecule | None
    status: str
    reason: str = ""


class Predictor:
    """A model file that answers for molecules.

    Args:
        path: the model file.
        device: where to compute, `cpu` or `cuda`; a GPU is taken where there is one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a model file of this version.
    """

    def __init__(self, path: str | Path, *, device: str | None = None) -> None:
        self.path = Path(path)
        self.model = checkpoint.load(self.path)
        self.card = checkpoint.read_card(self.path)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device)

    def predict(
        self,
        source: Source,
        *,
        views: Views | None = None,
        smiles: str | None = None,
        errors: Errors = "keep",
    ) -> pa.Table:
        """Predict the model's targets.

        Args:
            source: SMILES, molecules, or the path of a file of them.
            views: what of each molecule is used; what the model was trained to see by default.
            smiles: the SMILES column of a file; found by name by default.
            errors: rows that cannot be used are kept with their reason, skipped, or raise an error.

        Returns:
            The columns of the input, then `status`, `reason`, and per target NAME_pred (in the label's
            unit) or NAME_prob (probability of class 1), null where the row cannot be used.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the model has no targets, the file cannot be read, or the model was not trained
                for these views.
            MoleculeError: a row cannot be used and `errors` is "raise".
        """
        targets = self.model.config.targets
        if not targets:
            raise ValueError(
                f"{self.path}: the model has no targets: it was pretrained, `moleblend train` fine-tunes it"
            )
        table, rows = self._rows(source, views, smiles, errors)
        raw = self._run(rows, self.model, len(targets), self._views(views))
        columns = {}
        for k, target in enumerate(targets):
            if target.kind == "binary":
                columns[f"{target.name}_prob"] = 1 / (1 + np.exp(-raw[:, k].astype(np.float64)))
            else:
                columns[f"{target.name}_pred"] = raw[:, k].astype(np.float64) * target.scale + target.mean
        nullable = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
        return _joined(table, rows, nullable, errors)

    def embed(
        self,
        source: Source,
        *,
        views: Views | None = None,
        smiles: str | None = None,
        errors: Errors = "keep",
    ) -> Float32[np.ndarray, "n d"]:
        """Give one vector per row; NaN where the row cannot be used. Arguments as of `predict`."""
        _, rows = self._rows(source, views, smiles, errors)
        vectors = self._run(rows, self.model.embed, self.model.config.encoder.width, self._views(views))
        return vectors[_kept(rows, errors)]

    def embed_table(
        self,
        source: Source,
        *,
        views: Views | None = None,
        smiles: str | None = None,
        errors: Errors = "keep",
    ) -> tuple[pa.Table, Float32[np.ndarray, "n d"]]:
        """Give the input rows with their status, and the vectors. Arguments as of `predict`."""
        table, rows = self._rows(source, views, smiles, errors)
        vectors = self._run(rows, self.model.embed, self.model.config.encoder.width, self._views(views))
        return _joined(table, rows, {}, errors), vectors[_kept(rows, errors)]

    def _views(self, views: Views | None) -> Views:
        trained: Views = self.card.views
        if views is None or trained in ("both", views):
            return views or trained
        raise ValueError(
            f"{self.path}: the model was trained to see {trained} only, views {views} were asked for"
        )

    def _rows(
        self, source: Source, views: Views | None, smiles: str | None, errors: Errors
    ) -> tuple[Table, list[Row]]:
        """Read the source; every row of it comes back."""
        config = self.model.config.encoder
        if isinstance(source, str | Path):
            table = read_table(source)
            items = list(read_molecules(table, smiles=smiles, features=config.features))
        elif all(isinstance(item, str) for item in source):
            table = smiles_table([str(item) for item in source])
            items = list(read_molecules(table, features=config.features))
        else:
            items = [_checked(item, config.features) for item in source]
            table = smiles_table([item.smiles for item in items], [item.id for item in items])
        n_conformers = int(self.card.notes.get("conformers", 0))
        rows = [prepare(item, self._views(views), config.max_atoms, n_conformers) for item in items]
        if errors == "raise":
            for k, row in enumerate(rows):
                if row.molecule is None:
                    raise MoleculeError(f"{table.source}: {table.place(k)}: {row.reason}")
        return table, rows

    @torch.inference_mode()
    def _run(self, rows: list[Row], function, width: int, views: Views) -> Float32[np.ndarray, "n w"]:  # noqa: ANN001
        """Apply a function of (batch, blend) to all usable rows; NaN elsewhere."""
        results = np.full((len(rows), width), np.nan, np.float32)
        usable = [k for k, row in enumerate(rows) if row.molecule is not None]
        for places in in_batches([rows[k].molecule.n_atoms for k in usable]):
            chosen = [usable[place] for place in places]
            batch = collate([rows[k].molecule for k in chosen]).to(self.device)
            results[chosen] = function(batch, show(batch, views)).cpu().numpy()
        return results


def prepare(
    item: Molecule | Rejected, views: Views, max_atoms: int, n_conformers: int = 0
) -> Row:
    """Decide how a row is used.

    Args:
        item: what the row was read as.
        views: what shall be used of it.
        max_atoms: larger molecules are refused.
        n_conformers: geometries to compute where geometry is used and the row has none.
    """
    if isinstance(item, Rejected):
        return Row(None, "invalid", item.reason)
    if item.n_atoms > max_atoms:
        reason = f"{item.n_atoms} atoms, the model takes at most {max_atoms}"
        return Row(None, "too_large", reason)
    if views == "2d" or item.n_conformers:
        return Row(item, "ok")
    reason = "no geometry in the input"
    if n_conformers:
        try:
            return Row(add_positions(item, n_conformers=n_conformers), "ok")
        except MoleculeError as error:
            reason = str(error)
    if views == "3d":
        return Row(None, "no_3d", reason)
    return Row(item, "ok_2d_only", reason)


def in_batches(n_atoms: Sequence[int]) -> Iterator[list[int]]:
    """Group molecules of similar size, so that little is padded and memory stays bounded.

    Args:
        n_atoms: of each molecule.

    Yields:
        Places of the molecules of a batch.
    """
    batch: list[int] = []
    for place in np.argsort(n_atoms, kind="stable").tolist():
        is_full = len(batch) == _MOLECULES_AT_ONCE
        if batch and (is_full or (len(batch) + 1) * n_atoms[place] ** 2 > _PAIRS_AT_ONCE):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _checked(item: str | Molecule, features: FeatureVersion) -> Molecule:
    if not isinstance(item, Molecule):
        raise TypeError(f"either all items are SMILES or all are molecules, {item!r} is among molecules")
    if item.features != features:
        raise ValueError(
            f"{item.id}: features {features} were expected, {item.features} came; read it with "
            f"features={features!r}"
        )
    return item


def _kept(rows: list[Row], errors: Errors) -> list[int]:
    return [k for k, row in enumerate(rows) if errors != "skip" or row.molecule is not None]


def _joined(
    table: Table, rows: list[Row], results: dict[str, pa.Array], errors: Errors
) -> pa.Table:
    """Put status, reason and results beside the input columns."""
    columns = table.columns
    added = {
        "status": pa.array([row.status for row in rows]),
        "reason": pa.array([row.reason for row in rows]),
        **results,
    }
    for name, values in added.items():
        if name in columns.column_names:
            raise ValueError(
                f"{table.source}: the input has a column {name!r} already, which the output needs; rename it"
            )
        columns = columns.append_column(name, values)
    return columns.take(_kept(rows, errors))


def write_embeddings(
    table: pa.Table, vectors: Float32[np.ndarray, "n d"], path: str | Path
) -> None:
    """Write rows and their vectors.

    Args:
        table: the rows, as `Predictor.embed_table` gives them.
        vectors: one per row; NaN where the row cannot be used.
        path: ending in .parquet (a column `embedding`), .csv or .tsv (columns e0, e1, ...), or .npy (the
            vectors alone, float32; the rows then go to PATH.rows.csv).

    Raises:
        ValueError: the path ends otherwise.
    """
    path = Path(path)
    if path.suffix == ".npy":
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, vectors)
        write_table(table, path.with_name(f"{path.name}.rows.csv"))
        return
    is_known = ~np.isnan(vectors).any(1)
    if path.suffix == ".parquet":
        flat = pa.array(vectors.ravel())
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=pa.array(~is_known))
        write_table(table.append_column("embedding", column), path)
        return
    for k in range(vectors.shape[1]):
        table = table.append_column(f"e{k}", pa.array(vectors[:, k], from_pandas=True))
    write_table(table, path)
