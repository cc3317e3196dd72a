"""Members of an unfinished training run that are trained already; `--resume` does not repeat them.

Each member is written as soon as it is trained, before anything else is done with it. What a full
disk or a killed process costs is therefore at most the training of one member.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from moleblend.config import to_dict
from moleblend.environment import VERSION
from moleblend.errors import ModelFileError, OutputError
from moleblend.files import PartialOutput, file_sha256, partial_output_folder, replacing
from moleblend.finetuning.callbacks import EpochHistory
from moleblend.finetuning.config import TrainConfig
from moleblend.finetuning.lightning_module import FineTuning
from moleblend.finetuning.trainer import TrainedModel


def holds_finished_members(folder: Path) -> bool:
    """Check whether a run folder holds members of an unfinished run."""
    return any(_parts(folder).finished())


def can_resume(folder: Path) -> bool:
    """Check whether a run folder holds a run that was started and not finished."""
    return (partial_output_folder(folder / "model.safetensors") / "origin.json").is_file()


def _parts(folder: Path) -> PartialOutput:
    return PartialOutput(folder / "model.safetensors", "safetensors", "training run")


class FinishedMembers:
    """The trained members of one command, in the order in which it trains them.

    Args:
        config: settings of the run.
        model: file of the source model; None for random weights.
        say: prints a note if a member cannot be written.
        resume: use the members that an earlier run has trained.

    Raises:
        ValueError: as of `PartialOutput.start_or_resume`.
    """

    def __init__(
        self, config: TrainConfig, model: Path | None, say: Callable[[str], None], *, resume: bool
    ) -> None:
        self._parts, self._say, self._n_requested = _parts(config.folder), say, 0
        settings = {name: value for name, value in to_dict(config).items() if name != "out"}
        if config.search:  # its best settings are known only now, and may be others than before
            self._parts.remove()
        origin: dict[str, object] = {
            "moleblend": VERSION,
            "data_sha256": file_sha256(Path(config.data)),
            "source_sha256": "" if model is None else file_sha256(model),
            **settings,
        }
        is_resumed = resume and not config.search
        self._parts.start_or_resume(json.loads(json.dumps(origin)), resume=is_resumed)

    @property
    def folder(self) -> Path:
        """The folder of the members."""
        return self._parts.folder

    @property
    def n_missing(self) -> int:
        """Number of trained members that could not be written."""
        return self._n_requested - len(self._parts.finished())

    def get(self, module: FineTuning, train: Callable[[], TrainedModel]) -> TrainedModel:
        """Return the next member: from its file, or trained now and written.

        Args:
            module: the model before training.
            train: trains the module.
        """
        path = self._parts.path(self._n_requested)
        self._n_requested += 1
        if path.is_file():
            self._say(f"member {self._n_requested}: trained by the interrupted run")
            return _read(path, module)
        trained = train()
        try:
            _write(path, trained)
        except OSError as error:
            self._say(f"note: a trained member cannot be kept for --resume: {error}")
        return trained

    def remove(self) -> None:
        """Remove all members, when the run is finished."""
        self._parts.remove()

    def remove_if_empty(self) -> None:
        """Remove the folder if it holds no member."""
        if not self._parts.finished():
            self._parts.remove()


def _write(path: Path, trained: TrainedModel) -> None:
    metadata = {"history": json.dumps(asdict(trained.history))}
    state = trained.module.model.state_dict()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise OutputError(f"{path}: cannot be written ({error})") from error


def _read(path: Path, module: FineTuning) -> TrainedModel:
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()["history"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        module.model.load_state_dict(state)
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise ModelFileError(
            f"{path}: damaged, or of another run; remove the folder {path.parent} to start again"
        ) from error
    history = EpochHistory(tuple(values.pop("epochs")), **values)
    return TrainedModel(module, history)
