"""From molecules in any form to a table: one row out for every row in, in order."""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from moleblend.chem.descriptors import molecule_features
from moleblend.chem.molecule import FeatureVersion, Molecule, MoleculeError
from moleblend.data.dataframes import Frame, frame_table, is_frame, smiles_list, with_columns
from moleblend.data.formats import read_table
from moleblend.data.table import Table, read_molecules, smiles_table
from moleblend.data.targets import unscale_outputs
from moleblend.evaluation.applicability_domain import DomainScores, domain_scores
from moleblend.evaluation.conformal import check_confidence
from moleblend.evaluation.uncertainty import CONFIDENCE
from moleblend.model import checkpoint
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend, ShownViews
from moleblend.prediction.inference import over_geometries
from moleblend.prediction.inputs import Errors, Row, prepare
from moleblend.prediction.outputs import domain_columns, domain_names, result_columns, result_names

Source = str | Path | Table | Sequence[str] | Sequence[Molecule] | Frame


class Predictor:
    """A model file that answers for molecules.

    Args:
        path: the model file, or `packaged` for the one that comes with the package.
        device: where to compute, `cpu` or `cuda`; a GPU is taken where there is one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a model file of this version.
    """

    def __init__(self, path: str | Path, *, device: Literal["cpu", "cuda"] | None = None) -> None:
        self.path = checkpoint.locate(path)
        self.members = checkpoint.load_members(self.path)
        self.model = self.members[0]
        self.card = checkpoint.read_card(self.path)
        self.uncertainty = checkpoint.read_uncertainty(self.path)
        self.domain = checkpoint.read_domain(self.path)
        if self.card.views not in get_args(ShownViews):
            raise ValueError(
                f"{self.path}: the model's views are {self.card.views!r}, but this moleblend knows "
                f"{', '.join(get_args(ShownViews))}"
            )
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        for member in self.members:
            member.to(self.device)

    def predict(
        self,
        source: Source,
        *,
        views: ShownViews | None = None,
        smiles: str | None = None,
        errors: Errors = "keep",
        confidence: float = CONFIDENCE,
    ) -> pa.Table | Frame:
        """Predict the model's targets.

        Args:
            source: SMILES, molecules, a data frame of pandas or polars, or a file: its path, or
                what `read_table` made of it.
            views: what of each molecule is used; what the model was trained to see by default.
            smiles: the SMILES column of a file; found by name by default.
            errors: rows that cannot be used are kept with their reason, skipped, or raise an error.
            confidence: of the intervals NAME_low to NAME_high and of the sets NAME_set.

        Returns:
            The columns of the input (as a data frame of the same kind, if one came), then `status`,
            `reason`, those of `result_names` and of `domain_names`, null where the row cannot be
            used.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the model has no targets, the file cannot be read, it has a column that the
                output needs, the model was not trained for these views, or the confidence is not
                between 0 and 1.
            MoleculeError: a row cannot be used and `errors` is "raise".
            ChildProcessError: conformers are to be computed, and their process cannot start: a
                script needs `if __name__ == "__main__":`.
        """
        targets = self.model.config.targets
        if not targets:
            raise ValueError(
                f"{self.path}: the model has no targets: it was pretrained only, "
                "`moleblend train` fine-tunes it"
            )
        check_confidence(confidence)
        n_members = len(self.members)
        names = result_names(targets, n_members, self.uncertainty) + domain_names(self.domain)
        table, rows = self._rows(source, views, smiles, errors, names)

        def answer(molecules: Sequence[Molecule], batch: Batch, blend: Blend) -> Tensor:
            found = molecule_features([m.smiles for m in molecules], self.model.config.features)
            features = torch.from_numpy(found).to(self.device) if found.size else None
            first, *others = self.members
            assert first.property_head is not None
            vectors = first.embed(batch, blend)  # that say how near the training set is, too
            outputs = [first.property_head(vectors, features)]
            outputs += [member(batch, blend, features) for member in others]
            return torch.cat([vectors, *outputs], 1)

        n_outputs = sum(target.n_outputs for target in targets)
        width = self.model.config.encoder.width
        raw = self._run(rows, answer, width + n_members * n_outputs, self._views(views))
        each = np.split(raw[:, width:], n_members, 1)
        values = np.stack([unscale_outputs(part, targets) for part in each])
        results = result_columns(values, targets, self.uncertainty, confidence)
        if self.domain is not None:
            scores = domain_scores(self.domain, raw[:, :width], _smiles(rows))
            results |= domain_columns(self.domain, scores)
        joined = _joined(table, rows, results, errors)
        if is_frame(source):
            added = joined.drop_columns(table.names)
            return with_columns(source, _kept(rows, errors), added)
        return joined

    def embed(
        self,
        source: Source,
        *,
        views: ShownViews | None = None,
        smiles: str | None = None,
        errors: Errors = "keep",
    ) -> Float32[np.ndarray, "n d"]:
        """Give one vector per row; NaN where the row cannot be used. Arguments as of `predict`.

        Of an ensemble these are the first member's: vectors of different models have no mean.
        """
        _, rows = self._rows(source, views, smiles, errors)
        return self._embed(rows, views)[_kept(rows, errors)]

    def embed_table(
        self,
        source: Source,
        *,
        views: ShownViews | None = None,
        smiles: str | None = None,
        errors: Errors = "keep",
    ) -> tuple[pa.Table, Float32[np.ndarray, "n d"]]:
        """Give the input rows with their status, and the vectors. Arguments as of `predict`."""
        table, rows = self._rows(source, views, smiles, errors)
        return _joined(table, rows, {}, errors), self._embed(rows, views)[_kept(rows, errors)]

    def read(
        self, source: Source, *, views: ShownViews | None = None, smiles: str | None = None
    ) -> tuple[Table, list[Row], ShownViews]:
        """Give the rows of a source as `predict` sees them, and which views of them it uses.

        Arguments and errors as of `predict`.
        """
        return *self._rows(source, views, smiles, "keep"), self._views(views)

    def score_domain(self, rows: list[Row], views: ShownViews | None = None) -> DomainScores | None:
        """Say how near rows (of `read`) are to the training set; None if the file has none."""
        if self.domain is None:
            return None
        return domain_scores(self.domain, self._embed(rows, views), _smiles(rows))

    def _embed(self, rows: list[Row], views: ShownViews | None) -> Float32[np.ndarray, "n d"]:
        width = self.model.config.encoder.width

        def answer(_: Sequence[Molecule], batch: Batch, blend: Blend) -> Tensor:
            return self.model.embed(batch, blend)

        return self._run(rows, answer, width, self._views(views))

    def _views(self, views: ShownViews | None) -> ShownViews:
        trained = cast(ShownViews, self.card.views)
        if views is None or trained in ("both", views):
            return views or trained
        raise ValueError(
            f"{self.path}: the model was trained to see {trained} only, but views {views} were "
            "asked for"
        )

    def _rows(
        self,
        source: Source,
        views: ShownViews | None,
        smiles: str | None,
        errors: Errors,
        names: Sequence[str] = (),
    ) -> tuple[Table, list[Row]]:
        """Read the source; every row of it comes back. The output needs columns of these names."""
        config, used = self.model.config.encoder, self._views(views)
        if isinstance(source, str | Path):
            source = read_table(source)
        elif is_frame(source):
            source = frame_table(source)
        if isinstance(source, Table):
            table = source
            _check_names(table, ["status", "reason", *names])
            items = list(read_molecules(table, smiles=smiles, features=config.features))
        elif all(isinstance(item, str) for item in source):
            table = smiles_table([str(item) for item in source])
            items = list(read_molecules(table, features=config.features))
        else:
            items = [_checked(item, config.features) for item in source]
            table = smiles_table([item.smiles for item in items], [item.id for item in items])
        n_conformers = int(self.card.notes.get("conformers", 0))
        joined = self.model.config.features
        rows = prepare(items, used, config.max_atoms, n_conformers, joined)
        if errors == "raise":
            for k, row in enumerate(rows):
                if row.molecule is None:
                    raise MoleculeError(f"{table.source}: {table.place(k)}: {row.reason}")
        return table, rows

    def _run(
        self,
        rows: list[Row],
        function: Callable[[Sequence[Molecule], Batch, Blend], Tensor],
        width: int,
        views: ShownViews,
    ) -> Float32[np.ndarray, "n w"]:
        """Apply a function of molecules, batch and blend to all usable rows; NaN elsewhere."""
        results = np.full((len(rows), width), np.nan, np.float32)
        usable = [k for k, row in enumerate(rows) if row.molecule is not None]
        molecules = [row.molecule for row in rows if row.molecule is not None]

        def answer(places: list[int], batch: Batch, blend: Blend) -> Tensor:
            return function([molecules[place] for place in places], batch, blend)

        results[usable] = over_geometries(molecules, views, answer, width, self.device)
        return results


def embed(
    molecules: Any,  # noqa: ANN401
    *,
    model: str | Path = checkpoint.PACKAGED,
    views: ShownViews | None = None,
    smiles: str | None = None,
    errors: Literal["keep", "raise"] = "keep",
) -> Float32[np.ndarray, "n d"]:
    """Give one vector per molecule, from the model that comes with the package.

    Args:
        molecules: list, array or Series of n SMILES, or a data frame.
        model: another model file.
        views: what of each molecule is used; what the model was trained to see by default.
        smiles: the column of a data frame; found by name by default.
        errors: a molecule that cannot be used gets NaN, with a warning, or raises an error.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: no list of SMILES came, or the model was not trained for these views.
        MoleculeError: a molecule cannot be used and `errors` is "raise".
    """
    texts = smiles_list(molecules, smiles)
    path = checkpoint.locate(model)
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    table, vectors = _opened(path, changed).embed_table(texts, views=views, errors=errors)
    lost = np.flatnonzero(np.isnan(vectors).any(1))
    if len(lost):
        reason = table.column("reason")[int(lost[0])].as_py()
        warnings.warn(
            f"{len(lost)} of {len(texts)} molecules have no vector but NaN; the first is row "
            f"{lost[0] + 1}: {reason}",
            stacklevel=2,
        )
    return vectors


@lru_cache(maxsize=1)
def _opened(path: Path, changed: int) -> Predictor:  # noqa: ARG001 (a file that changed is read again)
    return Predictor(path)


def _smiles(rows: list[Row]) -> list[str]:
    return ["" if row.molecule is None else row.molecule.smiles for row in rows]


def _checked(item: str | Molecule, features: FeatureVersion) -> Molecule:
    if not isinstance(item, Molecule):
        raise TypeError(
            f"either all items are SMILES or all are molecules, {item!r} is among molecules"
        )
    if item.features != features:
        raise ValueError(
            f"{item.id}: features {features} were expected, {item.features} came; read it with "
            f"features={features!r}"
        )
    return item


def _kept(rows: list[Row], errors: Errors) -> Int64[np.ndarray, " k"]:
    kept = [k for k, row in enumerate(rows) if errors != "skip" or row.molecule is not None]
    return np.array(kept, np.int64)


def _check_names(table: Table, names: Sequence[str]) -> None:
    """Refuse an input with a column whose name the output needs."""
    for name in names:
        if name in table.names:
            raise ValueError(
                f"{table.source}: the input has a column {name!r} already, which the output needs; "
                "rename it"
            )


def _joined(
    table: Table, rows: list[Row], results: dict[str, pa.Array], errors: Errors
) -> pa.Table:
    """Put status, reason and results beside the input columns."""
    columns = table.columns
    added = {
        "status": pa.array([row.status for row in rows], pa.string()),
        "reason": pa.array([row.reason for row in rows], pa.string()),
        **results,
    }
    for name, values in added.items():
        columns = columns.append_column(name, values)
    return columns.take(_kept(rows, errors))
