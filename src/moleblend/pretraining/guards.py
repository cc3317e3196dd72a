"""Checks during a pretraining run: finite losses and weights, views that are learned."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from torch import Tensor, nn

from moleblend.errors import TrainingError
from moleblend.pretraining.config import ScheduleConfig
from moleblend.pretraining.data_loader import StepDataset
from moleblend.pretraining.training_state import describe_last_state

_LEARNED_BELOW = 0.995
"""A view counts as learned if its loss is below this fraction of the constant baseline's."""


class FiniteGuard:
    """Stops a run whose loss or weights are not finite, before they are saved.

    Args:
        dataset: the batches of the run, for the ids of the molecules in the message.
        out: the run folder, for the last saved state in the message.
    """

    def __init__(self, dataset: StepDataset, out: Path) -> None:
        self.dataset, self.out = dataset, out

    def check_loss(self, loss: Tensor, step: int) -> None:
        """Check a loss before its gradient reaches the weights.

        Raises:
            TrainingError: it is not finite.
        """
        if not bool(loss.isfinite()):
            raise self._error("the loss", step)

    def check_weights(self, model: nn.Module, step: int) -> None:
        """Check all weights of a model.

        Raises:
            TrainingError: one is not finite.
        """
        if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
            raise self._error("a weight", step)

    def _error(self, subject: str, step: int) -> FloatingPointError:
        """Name the molecules of the step, and the saved state to resume from."""
        rows = self.dataset.rows_of(step - 1)
        ids = ", ".join(self.dataset.store[int(row)].id for row in rows[:8])
        more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
        return TrainingError(
            f"{subject} of step {step} is not finite; the molecules of the step are {ids}{more}; "
            f"{describe_last_state(self.out)}"
        )


class UnlearnedViewWarning:
    """Warns once about views whose loss is still that of the constant baseline.

    Args:
        constant_losses: loss of the constant baseline for each view.
        schedule: decides from which step on a warning makes sense, see `warning_step`.
        console: where the warning is printed.
    """

    def __init__(
        self, constant_losses: Mapping[str, float], schedule: ScheduleConfig, console: Console
    ) -> None:
        self.constant_losses, self.console = constant_losses, console
        self.first_step = warning_step(schedule)
        self.is_done = False

    def check(self, step: int, losses: Mapping[str, float], learning_rate: float) -> None:
        """Compare mean losses with the constant baseline; only the first comparison counts."""
        if self.is_done or step < self.first_step:
            return
        self.is_done = True
        unlearned = [
            f"{name} {losses[name]:.3f} (constant baseline {constant:.3f})"
            for name, constant in self.constant_losses.items()
            if losses[name] > _LEARNED_BELOW * constant
        ]
        if unlearned:
            self.console.print(
                f"warning at step {step:,}: these losses are not below those of the constant "
                f"baseline: {', '.join(unlearned)}; the learning rate is {learning_rate:g}",
                style="yellow",
                soft_wrap=True,
                highlight=False,
            )


def warning_step(schedule: ScheduleConfig) -> int:
    """Return the step from which on a view that is not learned causes a warning.

    That is a fifth of all steps after the warm-up, at least 100 and at most 1,000: late enough for
    the learning rate to have an effect, and early enough to save time.
    """
    return schedule.warmup_steps + min(max(schedule.steps // 5, 100), 1_000)
