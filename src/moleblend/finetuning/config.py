"""What a fine-tuning run is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from moleblend.config import check_choices
from moleblend.data.labels.label_column import Task
from moleblend.evaluation.baseline import N_TREES
from moleblend.model.checkpoint import PACKAGED
from moleblend.model.encoder import EncoderConfig


@dataclass(frozen=True)
class TrainConfig:
    """One fine-tuning run.

    Attributes:
        data: table of molecules and measured values (csv, tsv, smi, sdf, parquet; also .gz).
        target: columns to predict; left out, they are found. An empty cell is a missing label, and
            `>10` or `<=3` is a bound.
        out: the run folder; left out, `runs/` and the name of the table.
        source: model file to start from, `packaged` for the pretrained model that comes with the
            package, or `scratch` for random weights.
        smiles: the SMILES column; found by name if empty.
        split: `scaffold`, `balanced` (scaffolds in random order), `cluster` (Butina on ECFP4),
            `random`, or a column that says train, valid or test for each row.
        task: of all targets, or of each: `regression`, `binary`, `multiclass`, or `auto`: numbers
            are regression, unless all are 0 and 1; few texts are classes.
        units: unit of each target, for the record; left out, as headers or a column of units say.
        log_scale: targets whose log10 is learnt.
        relation: column that says `>`, `=` or `<` beside the number of the target, whose bounds are
            then known; `auto` is the one whose name is of the target, or that can be of no other
            column; `none` reads none.
        views: what is used of each molecule: `2d`, `3d`, `both`; `auto` is both if any row has a
            geometry.
        conformers: geometries computed for each molecule that comes without; of more than one an
            epoch draws one at random, and predictions are the mean over all.
        folds: cross-validation in so many folds instead of one test part; each fold is tested once,
            the next one validates. The model file holds the models of all folds.
        seeds: repeats with other seeds on the same split; the model file holds the first.
        ensemble: members of the model, which differ by their seed; the prediction is their mean.
        readout: of the atoms' vectors, see `heads.ModelConfig`; `auto` is the source's.
        features: `ecfp4` (counts) and `descriptors` (of RDKit), joined to the property head, or
            `none`; `auto` is `ecfp4`, but `none` if 3D alone is used or RDKit cannot read the
            SMILES of a row that the model could.
        freeze: train the property head alone, on vectors that are computed once.
        search: trials of other settings, judged on validation, of which the best are kept; what
            differs from the defaults is not searched.
        pos_weight: weigh class 1 of a binary target by how rare it is: `on`, `off`, or `try` both
            and keep what is better on validation.
        keep_training_smiles: the model file has the SMILES of the training molecules, so that
            `predict` names the nearest one; without, fingerprints and embeddings stay.
        forest: trees of the random forest on ECFP4 that is trained and tested beside the model, to
            be compared with; fewer for large tables, 0 for none.
        epochs: of training; at most, with patience.
        patience: epochs without a better validation figure after which training stops, and the best
            epoch is kept; 0 keeps the last of all epochs, whatever validation says.
        batch_size: molecules in a step.
        learning_rate: at the end of the warm-up.
        layer_decay: each layer of the encoder learns at so many times the rate of the one above it.
        warmup_epochs: epochs over which the rate rises from 0; then it falls to 0 along a cosine.
        weight_decay: decoupled.
        ema: decay of the running mean of the weights, which is then judged and kept; 0 for none.
        clip_norm: largest norm of the gradient.
        head_dropout: before the last layer of the property head.
        seed: of everything random.
        device: `auto`, `cpu` or `cuda`.
        encoder: of a model from scratch; with a source it is the source's.
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
    relation: str = "auto"
    views: Literal["auto", "2d", "3d", "both"] = "auto"
    conformers: int = 0
    folds: int = 0
    seeds: int = 1
    ensemble: int = 1
    readout: Literal["auto", "mean", "layers", "cls"] = "auto"
    features: tuple[Literal["auto", "none", "ecfp4", "descriptors"], ...] = ("auto",)
    freeze: bool = False
    search: int = 0
    pos_weight: Literal["off", "on", "try"] = "off"
    keep_training_smiles: bool = True
    forest: int = N_TREES
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
        """Refuse what cannot run."""
        check_choices(self)
        for name in ("target", "log_scale", "features"):
            given = getattr(self, name)
            if len(set(given)) != len(given):
                raise ValueError(f"a {name} is named twice: {', '.join(given)}")
        if not self.features or (self.features[1:] and {"auto", "none"} & set(self.features)):
            raise ValueError(
                "features are auto or none, or one or both of ecfp4 and descriptors: "
                f"{', '.join(self.features) or 'nothing'} came"
            )
        if self.target and self.units and len(self.units) != len(self.target):
            raise ValueError(
                f"{len(self.target)} targets, but {len(self.units)} units: one for each, or none"
            )
        if not self.task:
            raise ValueError("task needs one value for all targets, or one for each")
        not_negative = ("conformers", "forest", "patience", "warmup_epochs", "weight_decay")
        least = dict.fromkeys(("epochs", "batch_size", "seeds", "ensemble"), 1)
        least |= dict.fromkeys((*not_negative, "search", "seed"), 0)
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, {getattr(self, name)} came")
        if self.folds and (self.folds < 3 or self.seeds > 1):
            raise ValueError(
                f"folds are at least 3, with one seed: {self.folds} folds, {self.seeds} seeds came"
            )
        if self.folds and self.search:
            raise ValueError(
                "search and folds do not go together: what chooses settings in one fold is what "
                "tests them in another; search with one test part, or leave search out"
            )
        if not (self.learning_rate > 0 and self.clip_norm > 0 and 0 < self.layer_decay <= 1):
            raise ValueError(
                "learning_rate and clip_norm must be positive, layer_decay in (0, 1], "
                f"{self.learning_rate}, {self.clip_norm} and {self.layer_decay} came"
            )
        for name in ("head_dropout", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), {getattr(self, name)} came")

    @property
    def joined(self) -> tuple[str, ...]:
        """The features to compute, of `descriptors.FEATURES`, once `auto` is settled."""
        assert self.features != ("auto",), "features are settled when the rows are known"
        return () if self.features == ("none",) else self.features

    @property
    def folder(self) -> Path:
        """The run folder."""
        name = Path(self.data).name
        while Path(name).suffix in (".gz", ".tar", ".csv", ".tsv", ".smi", ".sdf", ".parquet"):
            name = Path(name).stem
        return Path(self.out) if self.out else Path("runs") / name
