"""Settings of a fine-tuning run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from moleblend.config import PACKAGED, check_fields, check_finite
from moleblend.data.targets import Task
from moleblend.errors import SettingError
from moleblend.model.encoder_config import EncoderConfig

N_TREES = 200
"""Default number of trees of each tree model."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one fine-tuning run.

    Attributes:
        data: table of molecules and measured values (csv, tsv, smi, sdf, parquet; also .gz).
        target: columns to predict. By default they are detected. An empty cell is a missing label.
            `>10` and `<=3` are censored labels.
        out: the run folder. The default is `runs/` followed by the name of the table.
        source: model file to start from; `packaged` for the pretrained model that comes with the
            package; `scratch` for random weights.
        smiles: the SMILES column. By default it is detected by its name.
        split: `scaffold`, `balanced` (scaffolds in random order), `cluster` (Butina on ECFP4),
            `random`, or the name of a column that holds train, valid or test for each row.
        task: one value for all targets, or one for each: `regression`, `binary`, `multiclass`, or
            `auto`. With `auto` numbers are regression, unless all are 0 and 1, and a few distinct
            texts are classes.
        units: unit of each target, for the record. By default units are read from the column names
            or from a unit column.
        log_scale: targets whose log10 the model learns.
        qualifier: column with the qualifier (>, <, =) of the target's value. `auto` takes the
            column whose name contains the target's name, or the only candidate; `none` reads no
            such column.
        views: what the model sees of each molecule: `2d`, `3d`, `both`. `auto` is `both` if any
            row has a geometry, else `2d`.
        conformers: number of geometries to compute for each molecule without one. With several,
            each epoch draws one at random, and predictions are means over all.
        folds: number of cross-validation folds, instead of one test set. Each fold is the test set
            once; the next fold is its validation set. The model file holds the models of all folds.
        seeds: number of runs with different seeds on the same split. The model file holds the
            first.
        ensemble: number of models that differ in their seed. The prediction is their mean.
        readout: how atom vectors become a molecule vector, see `heads.ModelConfig`. `auto` is that
            of the source model.
        features: extra features for the property head: `ecfp4` (counts), `descriptors` (30 of
            RDKit), `properties` (111 of RDKit), several of them, or `none`. `auto` is `ecfp4`, or
            `none` if the model sees 3D only or if RDKit cannot parse the SMILES of a usable row.
        freeze: train the property head only, on molecule vectors that are computed once.
        search: number of hyperparameter search trials. The best trial on the validation set is
            kept. Settings that differ from their defaults are not searched.
        pos_weight: weight class 1 of binary targets by the ratio of negatives to positives: `on`,
            `off`, or `try` both and keep the better one on the validation set.
        keep_training_smiles: store the SMILES of the training molecules in the model file, so that
            `predict` can name the nearest one. Without them fingerprints and embeddings are still
            stored.
        forest: number of trees of each tree model. For each target are trained: gradient boosting
            and a random forest on ECFP4 and properties of RDKit, and a random forest on ECFP4.
            Large tables get fewer; 0 trains none.
        members: what the prediction averages: the network and the trees (`both`), with weights
            fitted to the validation set; or one of them, `network` or `trees`. The trees are then
            only a baseline, or the network is not trained.
        refit: after the test set has been evaluated, train the model of the file again on all
            labelled rows, with the same settings. The metrics are those of the model before. Not
            the default, since the metrics could then not be computed from the file.
        epochs: number of training epochs; the maximum if patience is set.
        patience: number of epochs without a better validation score after which training stops and
            the best epoch is kept. 0 trains all epochs and keeps the last one.
        batch_size: molecules per optimiser step.
        learning_rate: learning rate at the end of the warm-up.
        layer_decay: factor between the learning rates of an encoder layer and the layer above it.
        warmup_epochs: epochs over which the learning rate rises to its maximum. Afterwards it falls
            to 0 along a cosine.
        weight_decay: decoupled weight decay of AdamW.
        ema: decay of the exponential moving average of the weights. The averaged weights are
            validated and kept. 0 uses no average.
        clip_norm: largest norm of the gradient.
        head_dropout: dropout before the last layer of the property head.
        seed: seed of all random choices.
        device: `auto`, `cpu` or `cuda`.
        encoder: encoder of a model with random weights. A source model brings its own.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    target: tuple[str, ...] = ()
    out: str = ""
    source: Annotated[str, tyro.conf.arg(name="from")] = PACKAGED
    smiles: str = ""
    split: str = "scaffold"
    task: tuple[Task, ...] = ("auto",)
    units: tuple[str, ...] = ()
    log_scale: tuple[str, ...] = ()
    qualifier: str = "auto"
    views: Literal["auto", "2d", "3d", "both"] = "auto"
    conformers: int = 0
    folds: int = 0
    seeds: int = 1
    ensemble: int = 1
    readout: Literal["auto", "mean", "layers", "cls"] = "auto"
    features: tuple[Literal["auto", "none", "ecfp4", "descriptors", "properties"], ...] = ("auto",)
    freeze: bool = False
    search: int = 0
    pos_weight: Literal["off", "on", "try"] = "off"
    keep_training_smiles: bool = True
    forest: int = N_TREES
    members: Literal["both", "network", "trees"] = "both"
    refit: bool = False
    epochs: int = 30
    patience: int = 0
    batch_size: int = 32
    learning_rate: float = 2e-4
    layer_decay: float = 1.0
    warmup_epochs: float = 2.0
    weight_decay: float = 0.01
    ema: float = 0.0
    clip_norm: float = 5.0
    head_dropout: float = 0.1
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        """Check the values, alone and together."""
        check_fields(self)
        self._check_lists()
        self._check_numbers()
        if self.folds and (self.folds < 3 or self.seeds > 1):
            raise SettingError(
                f"got folds={self.folds} and seeds={self.seeds}, expected at least 3 folds and one "
                "seed"
            )
        if self.folds and self.refit:
            raise SettingError(
                f"got folds={self.folds} and refit: they cannot be combined; the models of all "
                "folds together have seen every row"
            )
        if self.folds and self.search:
            raise SettingError(
                f"got search={self.search} and folds={self.folds}: they cannot be combined, since "
                "the rows that select settings in one fold are test rows in another; search with "
                "one test set, or leave out the search"
            )
        check_finite(self)

    def _check_lists(self) -> None:
        for name in ("target", "log_scale", "features"):
            given = getattr(self, name)
            if len(set(given)) != len(given):
                raise SettingError(f"{name} has duplicates: {', '.join(given)}")
        if not self.features or (self.features[1:] and {"auto", "none"} & set(self.features)):
            raise SettingError(
                f"got features={', '.join(self.features) or 'nothing'}, expected auto, none, or "
                "some of ecfp4, descriptors and properties"
            )
        if self.target and self.units and len(self.units) != len(self.target):
            raise SettingError(
                f"got {len(self.units)} units for {len(self.target)} targets, expected one for "
                "each target, or none"
            )
        if not self.task:
            raise SettingError("got no task, expected one value for all targets, or one for each")

    def _check_numbers(self) -> None:
        not_negative = ("conformers", "forest", "patience", "warmup_epochs", "weight_decay")
        minimum = dict.fromkeys(("epochs", "batch_size", "seeds", "ensemble"), 1)
        minimum |= dict.fromkeys((*not_negative, "search", "seed"), 0)
        for name, smallest in minimum.items():
            if getattr(self, name) < smallest:
                raise SettingError(
                    f"got {name}={getattr(self, name)}, expected a number of at least {smallest}"
                )
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise SettingError(f"got {name}={getattr(self, name)}, expected a positive number")
        if not 0 < self.layer_decay <= 1:
            raise SettingError(
                f"got layer_decay={self.layer_decay}, expected a number above 0 and at most 1"
            )
        for name in ("head_dropout", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingError(
                    f"got {name}={getattr(self, name)}, expected a number from 0 to below 1"
                )

    @property
    def extra_features(self) -> tuple[str, ...]:
        """Features of `descriptors.FEATURES` for the property head; `auto` must be resolved."""
        assert self.features != ("auto",), "`auto` is resolved when the rows are known"
        return () if self.features == ("none",) else self.features

    @property
    def folder(self) -> Path:
        """The run folder."""
        name = Path(self.data).name
        while Path(name).suffix in (".gz", ".tar", ".csv", ".tsv", ".smi", ".sdf", ".parquet"):
            name = Path(name).stem
        return Path(self.out) if self.out else Path("runs") / name
