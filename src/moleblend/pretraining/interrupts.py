"""Ctrl-C and SIGTERM during a pretraining run: the current step is finished first."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager


class InterruptHandler:
    """Records Ctrl-C and SIGTERM until the run can stop.

    Args:
        n_processes: processes of the run.

    Attributes:
        is_interrupted: whether a signal came to this process, or to another one of the run.
    """

    def __init__(self, n_processes: int) -> None:
        self.n_processes = n_processes
        self.is_interrupted = False

    @contextmanager
    def handling(self) -> Generator[None, None, None]:
        """Record the first signal instead of raising; a second one has its usual effect.

        With several processes further signals are ignored, because the program that started the
        processes passes the first one on again.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set signal handlers
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def record(number: int, _: object) -> None:
            self.is_interrupted = True
            if self.n_processes == 1:
                signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, record)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
