"""Mean losses and speed of a pretraining run, the rows of `log.csv`."""

import time
from collections.abc import Mapping
from typing import Any


class LossLog:
    """Averages the losses and measures the speed since the last row of the log.

    Attributes:
        sums: sum of each loss since the last row.
        n_summed: number of steps in `sums`.
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.n_summed = 0
        self._n_molecules = 0
        self._n_molecules_of_run, self._seconds_of_run = 0, 0.0

    @property
    def molecules_per_s(self) -> float:
        """Speed of all training steps since the start, up to the last row."""
        return self._n_molecules_of_run / max(self._seconds_of_run, 1e-9)

    def start_clock(self) -> None:
        """Start measuring the time of the next row."""
        self._clock = time.perf_counter()

    def exclude(self, seconds: float) -> None:
        """Leave out time that was not spent in training."""
        self._clock += seconds

    def add(self, losses: Mapping[str, float], n_molecules: int) -> None:
        """Add the losses of a step."""
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss
        self.n_summed += 1
        self._n_molecules += n_molecules

    def next_row(self) -> tuple[dict[str, float], float]:
        """Return the mean losses and the molecules/s since the last row, and reset the sums."""
        seconds = time.perf_counter() - self._clock
        means = {name: total / self.n_summed for name, total in self.sums.items()}
        speed = self._n_molecules / seconds
        self._n_molecules_of_run += self._n_molecules
        self._seconds_of_run += seconds
        self.sums, self.n_summed, self._n_molecules = {}, 0, 0
        return means, speed

    def state_dict(self) -> dict[str, Any]:
        """The sums, which a saved state needs if it is saved between two rows."""
        return {"sums": self.sums, "n_summed": self.n_summed}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the sums of a saved state."""
        self.sums, self.n_summed = state_dict["sums"], state_dict["n_summed"]
