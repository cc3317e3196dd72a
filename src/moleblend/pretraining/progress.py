"""The progress of a pretraining run in the terminal: a bar, or lines where there is no terminal."""

from collections.abc import Iterable, Mapping

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


class _BarWithLosses(Progress):
    """A progress bar with the losses on a line of their own below it."""

    losses = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar and the line."""
        yield self.make_tasks_table(self.tasks)
        yield Text(self.losses, overflow="ellipsis", no_wrap=True)


class TrainingProgress:
    """Shows steps, losses and speed.

    Args:
        console: where they are shown; a console that is no terminal gets a line for each report.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = _BarWithLosses(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            expand=True,
            console=console,
            disable=not console.is_terminal,
        )

    def start(self, step: int, n_steps: int) -> None:
        """Show the bar from a step on."""
        self.task = self.bar.add_task("", total=n_steps, completed=step, speed="")
        self.bar.start()

    def advance(self, step: int) -> None:
        """Move the bar to a step."""
        self.bar.update(self.task, completed=step)

    def report(self, step: int, losses: Mapping[str, float], molecules_per_s: float) -> None:
        """Show the losses and the speed."""
        text = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        speed = f"{molecules_per_s:.0f} molecules/s"
        self.bar.losses = text
        self.bar.update(self.task, speed=speed)
        if not self.console.is_terminal:
            line = f"step {step:,}  {text}  {speed}"
            self.console.print(line, soft_wrap=True, highlight=False)

    def stop(self) -> None:
        """Release the terminal."""
        self.bar.stop()
