"""Predictor: molecules in any form in, a table out, with one row for each input row, in order."""

import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from moleblend.chem.descriptors import FEATURES
from moleblend.chem.molecule import FeatureVersion, Molecule, MoleculeError
from moleblend.chem.parsing import count_atoms
from moleblend.config import check_choice, shown_value
from moleblend.data.containers import check_texts, read_container
from moleblend.data.dataframes import Frame, frame_table, is_frame, smiles_list, with_columns
from moleblend.data.formats import read_table
from moleblend.data.table import Rejected, Table, plain_columns, read_molecules, smiles_table
from moleblend.data.targets import unscale_outputs
from moleblend.errors import ModelFileError, SettingError, SettingTypeError
from moleblend.evaluation.applicability_domain import DomainScores
from moleblend.evaluation.conformal import check_confidence
from moleblend.evaluation.uncertainty import CONFIDENCE
from moleblend.model import checkpoint
from moleblend.model.batch import Batch
from moleblend.model.blending import Blend, ShownViews
from moleblend.prediction.inference import over_geometries
from moleblend.prediction.inputs import (
    Errors,
    InputRules,
    Row,
    exclude_not_finite,
    prepare,
    stack_features,
    stack_fingerprints,
)
from moleblend.prediction.outputs import domain_columns, domain_names, result_columns, result_names
from moleblend.trees.averaging import MemberValues, count_members, feature_kinds

Source = str | Path | Table | pa.Table | Iterable[str | None] | Iterable[Molecule | None] | Frame
"""What `Predictor` reads: a file, a table, a list or an iterator of molecules, or a data frame."""


class Predictor:
    """A model file that is ready for prediction.

    Args:
        path: a model file, a run folder, or `packaged` for the model that comes with the package.
        device: where to compute, `cpu` or `cuda`; by default the GPU if there is one.

    Raises:
        MissingFileError: there is no such file.
        SettingError: it is not a model file of this version.
    """

    def __init__(self, path: str | Path, *, device: Literal["cpu", "cuda"] | None = None) -> None:
        if device is not None:
            check_choice("device", device, Literal["cpu", "cuda"])
        self.path = checkpoint.locate(path)
        file = checkpoint.read_model_file(self.path)
        self.members, self.model, self.card = file.members, file.members[0], file.card
        self.uncertainty, self.domain = file.uncertainty, file.domain
        self.tree_models = file.tree_models
        self.feature_kinds = feature_kinds(self.model.config.features, self.tree_models)
        if self.card.views not in get_args(ShownViews):
            raise SettingError(
                f"{self.path}: got a model with views {self.card.views!r}, expected one of "
                f"{', '.join(get_args(ShownViews))}"
            )
        self.n_conformers = self.card.notes.get("conformers", 0)
        if not isinstance(self.n_conformers, int) or not 0 <= self.n_conformers < 2**31:
            raise ModelFileError(
                f"{self.path}: got conformers={self.n_conformers!r} in the notes of the card, "
                "expected a number of at least 0"
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
            source: a SMILES; a list, array, Series or iterator of SMILES or of molecules (None
                where one is missing); a data frame of pandas or polars; an Arrow table; the path of
                a file; or the result of `read_table`.
            views: which views of each molecule are used; by default those of training.
            smiles: the SMILES column of a file; by default it is found by its name.
            errors: rows that cannot be used are kept with their reason, skipped, or raise an error.
            confidence: of the intervals NAME_low to NAME_high and of the sets NAME_set.

        Returns:
            The columns of the input, then `status`, `reason`, the columns of
            `outputs.target_columns`, and those of `outputs.domain_output_columns`. They are null
            where the row cannot be used. For a data frame, a data frame of the same kind.

        Raises:
            MissingFileError: there is no such file.
            SettingError: the model has no targets, the file cannot be read, it has a column whose
                name the output needs, the model was not trained for these views, or the confidence
                is not between 0 and 1.
            MoleculeError: a row cannot be used and `errors` is "raise".
            WorkerError: the process that computes conformers cannot start; a script needs
                `if __name__ == "__main__":`.
        """
        targets = self.model.config.targets
        if not targets:
            raise SettingError(
                f"{self.path}: the model has no targets: it was pretrained only, "
                "`moleblend train` fine-tunes it"
            )
        check_confidence(confidence)
        n_networks, config = len(self.members), self.model.config
        n_members = count_members(n_networks, self.tree_models)
        names = result_names(targets, n_members, self.uncertainty) + domain_names(self.domain)
        table, rows = self._rows(
            source, views, smiles, errors, names=names, computed=self.feature_kinds
        )

        def outputs(chosen: Sequence[Row], batch: Batch, blend: Blend) -> Tensor:
            features = None
            if config.features:
                stacked = stack_features(chosen, config.n_features)
                features = torch.from_numpy(stacked).to(self.device)
            first, *others = self.members
            assert first.property_head is not None
            vectors = first.embed(batch, blend)  # needed for the applicability domain, too
            each = [first.property_head(vectors, features)]
            each += [member(batch, blend, features) for member in others]
            return torch.cat([vectors, *each], 1)

        n_outputs = sum(target.n_outputs for target in targets)
        width = config.encoder.width
        raw = self._run(rows, outputs, width + n_networks * n_outputs, self._views(views))
        rows, raw = _finite(table, rows, raw, errors)
        each = np.split(raw[:, width:], n_networks, 1)
        values = np.stack([unscale_outputs(network, targets) for network in each])
        predicted = self._with_trees(values, rows)
        results = result_columns(predicted, targets, self.uncertainty, confidence)
        if self.domain is not None:
            results |= domain_columns(self.domain, self._domain_scores(rows, raw[:, :width]))
        output = _with_results(table, rows, results, errors)
        if is_frame(source):
            added = output.drop_columns(table.names)
            return with_columns(source, _kept(rows, errors), added)
        return output

    def _with_trees(self, networks: Float64[np.ndarray, "m n o"], rows: list[Row]) -> MemberValues:
        """Join the predictions of the trees to those of the networks."""
        targets = self.model.config.targets
        if not self.tree_models:
            return MemberValues.of_networks(networks)
        inputs = stack_features(rows, sum(FEATURES[kind] for kind in self.feature_kinds))
        return MemberValues.of(networks, self.tree_models, inputs, self.feature_kinds, targets)

    def embed(
        self,
        source: Source,
        *,
        views: ShownViews | None = None,
        smiles: str | None = None,
        errors: Errors = "keep",
    ) -> Float32[np.ndarray, "n d"]:
        """Compute one vector per row; NaN where the row cannot be used. Arguments as of `predict`.

        An ensemble gives the vectors of its first member, because the vectors of different models
        cannot be averaged.
        """
        return self.embed_table(source, views=views, smiles=smiles, errors=errors)[1]

    def embed_table(
        self,
        source: Source,
        *,
        views: ShownViews | None = None,
        smiles: str | None = None,
        errors: Errors = "keep",
    ) -> tuple[pa.Table, Float32[np.ndarray, "n d"]]:
        """Return the input rows with their status, and the vectors. Arguments as of `predict`."""
        table, rows = self._rows(source, views, smiles, errors)
        rows, vectors = _finite(table, rows, self._embed(rows, views), errors)
        return _with_results(table, rows, {}, errors), vectors[_kept(rows, errors)]

    def read(
        self, source: Source, *, views: ShownViews | None = None, smiles: str | None = None
    ) -> tuple[Table, list[Row], ShownViews]:
        """Read the rows of a source as `predict` does, and tell which views of them it uses.

        Arguments and errors as of `predict`.
        """
        rows = self._rows(source, views, smiles, "keep", computed=self.feature_kinds)
        return *rows, self._views(views)

    def score_domain(self, rows: list[Row], views: ShownViews | None = None) -> DomainScores | None:
        """Score rows (of `read`) against the applicability domain; None if the file has none."""
        if self.domain is None:
            return None
        return self._domain_scores(rows, self._embed(rows, views))

    def _domain_scores(self, rows: list[Row], vectors: Float32[np.ndarray, "n d"]) -> DomainScores:
        """Score rows; unknown where a row cannot be used, or RDKit refuses its SMILES."""
        assert self.domain is not None
        known = vectors.copy()
        known[[row.features is None for row in rows]] = np.nan
        return self.domain.score_fingerprints(known, stack_fingerprints(rows))

    def _embed(self, rows: list[Row], views: ShownViews | None) -> Float32[np.ndarray, "n d"]:
        width = self.model.config.encoder.width

        def vectors(_: Sequence[Row], batch: Batch, blend: Blend) -> Tensor:
            return self.model.embed(batch, blend)

        return self._run(rows, vectors, width, self._views(views))

    def _views(self, views: ShownViews | None) -> ShownViews:
        trained = cast(ShownViews, self.card.views)
        if views is not None:
            check_choice("views", views, ShownViews)
        if views is None or trained in ("both", views):
            return views or trained
        raise SettingError(
            f"{self.path}: got views {views!r}, expected {trained!r}: the model was trained on "
            "these only"
        )

    def _rows(
        self,
        source: Source,
        views: ShownViews | None,
        smiles: str | None,
        errors: Errors,
        *,
        names: Sequence[str] = (),
        computed: tuple[str, ...] = (),
    ) -> tuple[Table, list[Row]]:
        """Read all rows of the source.

        Args:
            source: as of `predict`, as are `views`, `smiles` and `errors`.
            views: which views are used.
            smiles: the SMILES column.
            errors: what happens to rows that cannot be used.
            names: columns that the output adds, besides `status` and `reason`.
            computed: kinds of features to compute.
        """
        config, used = self.model.config.encoder, self._views(views)
        check_choice("errors", errors, Errors)
        if isinstance(source, str) and _is_smiles(source):
            source = [source]
        if isinstance(source, str | Path):
            source = read_table(source)
        elif isinstance(source, pa.Table):
            columns = plain_columns(source.replace_schema_metadata(None))
            source = Table(smiles_table([]).source, columns)
        elif is_frame(source):
            source = frame_table(source)
        items: Iterable[Molecule | Rejected]
        if isinstance(source, Table):
            table = source
            _check_names(table, ["status", "reason", *names])
            items = read_molecules(table, smiles=smiles, features=config.features)
        else:
            given = read_container(source)
            if any(isinstance(item, Molecule) for item in given):
                items = [_checked(item, k, config.features) for k, item in enumerate(given)]
                table = smiles_table(
                    [item.smiles if isinstance(item, Molecule) else "" for item in items],
                    [item.id for item in items],
                )
            else:
                table = smiles_table(check_texts(given))
                items = read_molecules(table, features=config.features)
        rules = InputRules(
            views=used,
            max_atoms=config.max_atoms,
            required=self.feature_kinds if computed else self.model.config.features,
            computed=computed,
            has_fingerprint=self.domain is not None,
        )
        rows = prepare(items, rules, self.n_conformers)
        if errors == "raise":
            _check_usable(table, rows)
        return table, rows

    def _run(
        self,
        rows: list[Row],
        function: Callable[[Sequence[Row], Batch, Blend], Tensor],
        width: int,
        views: ShownViews,
    ) -> Float32[np.ndarray, "n w"]:
        """Apply a function of rows, batch and blend to all usable rows; NaN elsewhere."""
        results = np.full((len(rows), width), np.nan, np.float32)
        usable = [k for k, row in enumerate(rows) if row.molecule is not None]
        molecules = [row.molecule for row in rows if row.molecule is not None]

        def of_batch(places: list[int], batch: Batch, blend: Blend) -> Tensor:
            return function([rows[usable[place]] for place in places], batch, blend)

        results[usable] = over_geometries(molecules, views, of_batch, width, self.device)
        return results


def _is_smiles(text: str) -> bool:
    """Tell whether a text is one molecule and not the path of a file."""
    return not Path(text).exists() and Path(text).suffix == "" and count_atoms(text) > 0


def embed(
    molecules: Any,  # noqa: ANN401
    *,
    model: str | Path = checkpoint.PACKAGED,
    views: ShownViews | None = None,
    smiles: str | None = None,
    errors: Literal["keep", "raise"] = "keep",
) -> Float32[np.ndarray, "n d"]:
    """Compute one vector per molecule, by default with the model that comes with the package.

    Args:
        molecules: list, array or Series of n SMILES, or a data frame.
        model: a model file, a run folder, or `packaged`.
        views: which views of each molecule are used; by default those of training.
        smiles: the SMILES column of a data frame; by default it is found by its name.
        errors: a molecule that cannot be used gets NaN, with a warning, or raises an error.

    Raises:
        MissingFileError: there is no such model.
        SettingError: `molecules` is not a list of SMILES, or the model was not trained for these
            views.
        MoleculeError: a molecule cannot be used and `errors` is "raise".
    """
    check_choice("errors", errors, Literal["keep", "raise"])
    texts = smiles_list(molecules, smiles)
    table, vectors = open_predictor(model).embed_table(texts, views=views, errors=errors)
    lost = np.flatnonzero(np.isnan(vectors).any(1))
    if len(lost):
        reason = table.column("reason")[int(lost[0])].as_py()
        warnings.warn(
            f"{len(lost)} of {len(texts)} molecules cannot be used, their vectors are NaN; the "
            f"first is row {lost[0] + 1}: {reason}",
            stacklevel=2,
        )
    return vectors


def open_predictor(
    model: str | Path | bytes, *, device: Literal["cpu", "cuda"] | None = None
) -> Predictor:
    """Read a model, or reuse one of the two that this process read last.

    Args:
        model: as of `Predictor`, or the content of a model file. A file that has changed since is
            read again.
        device: as of `Predictor`.
    """
    if isinstance(model, bytes):
        return _open_cached(model, 0, device)
    path = checkpoint.locate(model)
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return _open_cached(path, changed, device)


def forget_predictors() -> None:
    """Release the models that `open_predictor` keeps in memory."""
    _open_cached.cache_clear()


@lru_cache(maxsize=2)
def _open_cached(
    model: Path | bytes,
    changed: int,  # noqa: ARG001 (part of the key)
    device: Literal["cpu", "cuda"] | None,
) -> Predictor:
    if isinstance(model, Path):
        return Predictor(model, device=device)
    with tempfile.TemporaryDirectory(prefix="moleblend-") as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(model)
        return Predictor(path, device=device)


def _checked(item: object, place: int, features: FeatureVersion) -> Molecule | Rejected:
    """Check one item of a list of molecules; a missing one is a row that cannot be used."""
    name = f"row {place + 1}"
    if item is None:
        return Rejected(place + 1, name, "the molecule is missing")
    if not isinstance(item, Molecule):
        raise SettingTypeError(
            f"{name}: got {shown_value(item)} among molecules, "
            "expected only SMILES or only molecules"
        )
    if item.features != features:
        raise MoleculeError(
            f"{item.id}: got features {item.features}, expected {features}; read the molecule with "
            f"features={features!r}"
        )
    return item


def _check_usable(table: Table, rows: Sequence[Row]) -> None:
    for k, row in enumerate(rows):
        if row.molecule is None:
            raise MoleculeError(f"{table.source}: {table.place(k)}: {row.reason}")


def _finite(
    table: Table, rows: list[Row], results: Float32[np.ndarray, "n w"], errors: Errors
) -> tuple[list[Row], Float32[np.ndarray, "n w"]]:
    """Exclude rows without finite results; their results become NaN."""
    rows = exclude_not_finite(rows, results)
    if errors == "raise":
        _check_usable(table, rows)
    is_unusable = np.array([row.molecule is None for row in rows], bool)
    return rows, np.where(is_unusable[:, None], np.float32(np.nan), results)


def _kept(rows: list[Row], errors: Errors) -> Int64[np.ndarray, " k"]:
    kept = [k for k, row in enumerate(rows) if errors != "skip" or row.molecule is not None]
    return np.array(kept, np.int64)


def _check_names(table: Table, names: Sequence[str]) -> None:
    """Refuse an input that has a column of the output."""
    for name in names:
        if name in table.names:
            raise SettingError(
                f"{table.source}: the input already has a column {name!r}, which the output adds; "
                "rename it"
            )


def _with_results(
    table: Table, rows: list[Row], results: dict[str, pa.Array], errors: Errors
) -> pa.Table:
    """Append status, reason and results to the input columns."""
    columns = table.columns
    added = {
        "status": pa.array([row.status for row in rows], pa.string()),
        "reason": pa.array([row.reason for row in rows], pa.string()),
        **results,
    }
    for name, values in added.items():
        columns = columns.append_column(name, values)
    return columns.take(_kept(rows, errors))
