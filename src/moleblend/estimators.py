"""scikit-learn estimators: X is a list, array, Series or data frame of SMILES.

They use the same functions as the commands. A fitted estimator holds the bytes of its model file,
so that its pickle needs no torch class and no other file.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64, Int64
from rich.console import Console
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.utils import Tags, assert_all_finite, check_array, check_consistent_length
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from moleblend.config import PACKAGED
from moleblend.data.dataframes import is_frame, smiles_list
from moleblend.data.formats import write_table
from moleblend.data.labels.cell_values import LARGEST_LABEL
from moleblend.data.splits import Split, random_split, scaffold_split
from moleblend.errors import MoleblendError, SettingError, TableError
from moleblend.files import replacing
from moleblend.finetuning.config import N_TREES
from moleblend.finetuning.train import TrainConfig, train
from moleblend.model.blending import ShownViews
from moleblend.model.encoder_config import EncoderConfig
from moleblend.prediction.predictor import embed, open_predictor


class _SmilesEstimator(BaseEstimator):
    """Base class of estimators whose X is SMILES."""

    smiles: str | None

    def _read(self, X: Any, *, is_fit: bool = False) -> list[str]:  # noqa: ANN401, N803
        """Return the SMILES of X; fitting stores the names of its columns."""
        smiles = smiles_list(X, self.smiles)
        if not smiles:
            raise SettingError("found array with 0 sample(s), expected at least 1 molecule")
        if is_fit:
            self.n_features_in_ = len(X.columns) if is_frame(X) else 1
            if is_frame(X):
                self.feature_names_in_ = np.array(list(X.columns), object)
        return smiles

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags


class _FineTuned(_SmilesEstimator):
    """Base class of fine-tuned models; the model is kept as the bytes of its file."""

    def __init__(
        self,
        model: str | Path = PACKAGED,
        *,
        smiles: str | None = None,
        views: Literal["auto", "2d", "3d", "both"] = "auto",
        conformers: int = 0,
        features: tuple[Literal["auto", "none", "ecfp4", "descriptors", "properties"], ...] = (
            "auto",
        ),
        freeze: bool = False,
        ensemble: int = 1,
        members: Literal["both", "network", "trees"] = "both",
        forest: int = N_TREES,
        validation_fraction: float = 0.1,
        epochs: int = 30,
        patience: int = 0,
        batch_size: int = 32,
        learning_rate: float = 2e-4,
        head_dropout: float = 0.1,
        random_state: int = 0,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        encoder: EncoderConfig | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.smiles = smiles
        self.views = views
        self.conformers = conformers
        self.features = features
        self.freeze = freeze
        self.ensemble = ensemble
        self.members = members
        self.forest = forest
        self.validation_fraction = validation_fraction
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.head_dropout = head_dropout
        self.random_state = random_state
        self.device = device
        self.encoder = encoder
        self.verbose = verbose

    def _train(
        self,
        smiles: list[str],
        split: Split,
        labels: dict[str, Float64[np.ndarray, " n"]],
        task: Literal["regression", "binary"],
    ) -> None:
        """Fine-tune on the labels of each target, in a temporary folder."""
        # A run needs a test set. Users of an estimator test it themselves, so the validation
        # molecules are also the test set, whose metrics are not used.
        rows = np.concatenate([np.arange(len(smiles)), split.validation])
        sets = np.full(len(rows), "test", object)
        sets[split.train], sets[split.validation] = "train", "valid"
        columns = {"smiles": pa.array([smiles[row] for row in rows]), "set": pa.array(sets)}
        for name, values in labels.items():
            columns[name] = pa.array(values[rows], from_pandas=True)
        with tempfile.TemporaryDirectory(prefix="moleblend-") as folder:
            data = Path(folder) / "fit.parquet"
            write_table(pa.table(columns), data)
            config = TrainConfig(
                data=str(data),
                target=tuple(labels),
                out=str(Path(folder) / "run"),
                source=str(self.model),
                smiles="smiles",
                split="set",
                task=(task,),
                views=self.views,
                conformers=self.conformers,
                features=self.features,
                freeze=self.freeze,
                ensemble=self.ensemble,
                epochs=self.epochs,
                patience=self.patience,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                head_dropout=self.head_dropout,
                members=self.members,
                forest=self.forest,
                seed=self.random_state,
                device=self.device,
                encoder=self.encoder or EncoderConfig(),
            )
            console = Console(stderr=True, quiet=not self.verbose)
            try:
                result = train(config, errors="raise", console=console)
            except ValueError as error:  # its row number is that of X
                kind = type(error) if isinstance(error, MoleblendError) else ValueError
                raise kind(str(error).replace(str(data), "X and y")) from error
            self.model_file_ = result.model.read_bytes()
        self.kept_epoch_ = result.kept_epoch

    def _validation(self, smiles: list[str]) -> Split:
        """Split off a validation set by scaffold, or at random if its size would be far off."""
        if not 0 < self.validation_fraction < 1:
            raise SettingError(
                f"got validation_fraction={self.validation_fraction}, expected a number between 0 "
                "and 1"
            )
        if len(smiles) < 2:
            raise SettingError("got 1 sample, expected at least 2 molecules")
        n = len(smiles)
        wanted = min(max(round(self.validation_fraction * n), 1), n - 1)
        fractions = (1 - wanted / n, wanted / n, 0.0)
        split = scaffold_split(smiles, fractions)
        # Sizes are rounded down; the molecules left over belong to the validation set.
        split = Split(split.train, np.sort(np.concatenate([split.validation, split.test])), _NONE)
        # Molecules of one scaffold stay together, which may make the set too large.
        if not 0 < len(split.validation) <= min(2 * wanted, n - 1):
            split = random_split(n, fractions, self.random_state)
        return split

    def _predict(self, X: Any) -> Float64[np.ndarray, "n t"]:  # noqa: ANN401, N803
        """Predict every target: values in their unit, or probabilities."""
        check_is_fitted(self, "model_file_")
        device = None if self.device == "auto" else self.device
        predictor = open_predictor(self.model_file_, device=device)
        table = predictor.predict(self._read(X), errors="raise")
        targets = predictor.model.config.targets
        suffix = {"regression": "pred", "binary": "prob"}
        columns = [table.column(f"{t.name}_{suffix[t.kind]}").to_numpy() for t in targets]
        return np.stack(columns, 1)

    def save(self, path: str | Path) -> None:
        """Write the fitted model as a file that `moleblend predict` reads."""
        check_is_fitted(self, "model_file_")
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(self.model_file_)


_NONE: Int64[np.ndarray, " n"] = np.zeros(0, np.int64)


class MoleBlendRegressor(RegressorMixin, _FineTuned):
    """Regression of molecular properties with a fine-tuned model.

    Args:
        model: model file to start from, `packaged`, or `scratch` for random weights.
        smiles: SMILES column if X is a data frame. By default it is detected by its name.
        views: what the model sees of each molecule, see `finetuning.config.TrainConfig`.
        conformers: number of geometries to compute for each molecule.
        features: extra features for the property head, see `finetuning.config.TrainConfig`.
        freeze: train the property head only, on molecule vectors that are computed once.
        ensemble: number of networks that differ in their seed. The prediction is their mean.
        members: what the prediction averages: the network and trees (`both`), or one of them.
        forest: number of trees of each tree model; 0 for none.
        validation_fraction: fraction of the molecules in the validation set. It is a scaffold
            split, or a random split if the set would be empty or more than twice as large. The set
            calibrates probabilities and intervals and, with patience, selects the epoch.
        epochs: number of training epochs; the maximum if patience is set.
        patience: number of epochs without a better validation score after which training stops and
            the best epoch is kept. 0 keeps the last epoch.
        batch_size: molecules per optimiser step.
        learning_rate: learning rate at the end of the warm-up.
        head_dropout: dropout before the last layer of the property head.
        random_state: seed of all random choices.
        device: `auto`, `cpu` or `cuda`.
        encoder: encoder of a model with random weights.
        verbose: print each epoch.

    Attributes:
        model_file_: bytes of the fitted model's safetensors file; `save` writes them.
        kept_epoch_: epoch of the kept weights, in an ensemble of its first member.
        n_outputs_: number of targets.
        n_features_in_: columns of X.

    Example:
        >>> from sklearn.model_selection import cross_val_score
        >>> scores = cross_val_score(MoleBlendRegressor(), smiles, y, cv=5)  # doctest: +SKIP
    """

    def fit(self, X: Any, y: Any) -> "MoleBlendRegressor":  # noqa: ANN401, N803
        """Fine-tune.

        Args:
            X: SMILES of n molecules.
            y: [n], or [n t] for several targets; NaN is a missing label.

        Raises:
            SettingError: a SMILES cannot be parsed, or X and y have different lengths.
        """
        smiles = self._read(X, is_fit=True)
        labels = check_array(
            _require_y(self, y), dtype=np.float64, ensure_2d=False, ensure_all_finite="allow-nan"
        )
        check_consistent_length(smiles, labels)
        too_large = np.flatnonzero(
            (np.abs(labels.reshape(len(labels), -1)) >= LARGEST_LABEL).any(1)
        )
        if len(too_large):
            raise TableError(
                f"y, row {too_large[0] + 1}: got {labels[too_large[0]]}, expected numbers below "
                f"{LARGEST_LABEL:g} (a missing label is NaN)"
            )
        self._is_flat = labels.ndim == 1
        columns = labels.reshape(len(smiles), -1)
        self.n_outputs_ = columns.shape[1]
        empty = np.flatnonzero(np.isnan(columns).all(0))
        if len(empty):
            raise SettingError(f"y has no label in column {empty[0] + 1}: all values are NaN")
        targets = {f"y{k}": column for k, column in enumerate(columns.T)}
        self._train(smiles, self._validation(smiles), targets, "regression")
        return self

    def predict(self, X: Any) -> Float64[np.ndarray, "..."]:  # noqa: ANN401, N803
        """Predict values; the shape is [n], or [n t] if y had two axes.

        Raises:
            MoleculeError: a molecule cannot be used; the message names its row.
        """
        values = self._predict(X)
        return values[:, 0] if self._is_flat else values

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class MoleBlendClassifier(ClassifierMixin, _FineTuned):
    """Classification of molecules with a fine-tuned model; arguments as in `MoleBlendRegressor`.

    Two classes are one target. More classes are one target each (one against the rest), and their
    probabilities are normalised by their sum.

    Attributes:
        classes_: the labels, sorted.
        model_file_: as in `MoleBlendRegressor`, like the others.
    """

    def fit(self, X: Any, y: Any) -> "MoleBlendClassifier":  # noqa: ANN401, N803
        """Fine-tune.

        Args:
            X: SMILES of n molecules.
            y: labels of two or more classes; numbers or text.

        Raises:
            SettingError: a SMILES cannot be parsed, y has one class only, or X and y have different
                lengths.
        """
        smiles = self._read(X, is_fit=True)
        labels = column_or_1d(_require_y(self, y), warn=True)
        assert_all_finite(labels, input_name="y")
        check_consistent_length(smiles, labels)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise SettingError("y has one class only, expected two or more classes")
        wanted = range(1, 2) if len(self.classes_) == 2 else range(len(self.classes_))
        columns = {f"class{k}": (codes == k).astype(np.float64) for k in wanted}
        split = self._validation(smiles)
        for code in np.setdiff1d(codes, codes[split.train]):
            warnings.warn(
                f"all molecules of class {self.classes_[code]!r} are in the validation set, so the "
                "model cannot learn it; try another random_state or validation_fraction",
                stacklevel=2,
            )
        self._train(smiles, split, columns, "binary")
        return self

    def predict_proba(self, X: Any) -> Float64[np.ndarray, "n c"]:  # noqa: ANN401, N803
        """Predict the probability of each of `classes_`.

        Raises:
            MoleculeError: a molecule cannot be used; the message names its row.
        """
        values = self._predict(X)
        if len(self.classes_) == 2:
            return np.concatenate([1 - values, values], 1)
        return values / values.sum(1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:  # noqa: ANN401, N803
        """Predict the most probable of `classes_`."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]


class MoleBlendEmbedder(TransformerMixin, _SmilesEstimator):
    """Transformer of molecules to vectors of a model; it needs no fitting.

    Args:
        model: model file, or `packaged`.
        smiles: SMILES column if X is a data frame. By default it is detected by its name.
        views: what the model sees of each molecule. The default is that of its training.
        errors: a molecule that cannot be used gets NaN and a warning (`keep`), or raises an error.

    Example:
        >>> from sklearn.linear_model import Ridge
        >>> from sklearn.pipeline import make_pipeline
        >>> pipeline = make_pipeline(MoleBlendEmbedder(), Ridge())
    """

    def __init__(
        self,
        model: str | Path = PACKAGED,
        *,
        smiles: str | None = None,
        views: ShownViews | None = None,
        errors: Literal["keep", "raise"] = "raise",
    ) -> None:
        self.model = model
        self.smiles = smiles
        self.views = views
        self.errors = errors

    def fit(self, X: Any, y: Any = None) -> "MoleBlendEmbedder":  # noqa: ANN401, ARG002, N803
        """Check X and store its column names."""
        self._read(X, is_fit=True)
        return self

    def transform(self, X: Any) -> Float32[np.ndarray, "n d"]:  # noqa: ANN401, N803
        """Compute one vector per molecule.

        Raises:
            MoleculeError: a molecule cannot be used and `errors` is "raise".
        """
        return embed(self._read(X), model=self.model, views=self.views, errors=self.errors)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:  # noqa: ANN401, ARG002
        """Return the names of the vector components: e0, e1, ..."""
        width = embed(["C"], model=self.model).shape[1]
        return np.array([f"e{k}" for k in range(width)], object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []
        return tags


def _require_y(estimator: BaseEstimator, y: Any) -> Any:  # noqa: ANN401
    if y is None:
        name = type(estimator).__name__
        raise SettingError(f"{name} requires y to be passed, but the target y is None")
    return y
