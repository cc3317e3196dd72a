"""Work in several processes, whose results come in the order of the work."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Piece], Result], pieces: Iterable[Piece], n_processes: int
) -> Iterator[Result]:
    """Do the same with every piece; a few of them are under way at a time.

    Args:
        work: a function of a module (or a `partial` of one), so that it can be sent.
        pieces: are drawn as they are needed.
        n_processes: with 1 all happens in this process; more are spawned, so a script needs
            `if __name__ == "__main__":`.

    Raises:
        ChildProcessError: a process died.
    """
    if n_processes <= 1:
        yield from map(work, pieces)
        return
    # Spawned, not forked: torch and Arrow have threads, which a fork would break.
    pool = ProcessPoolExecutor(n_processes, mp_context=get_context("spawn"))
    under_way: deque[Future[Result]] = deque()
    try:
        for piece in pieces:
            under_way.append(pool.submit(work, piece))
            if len(under_way) > 2 * n_processes:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a process that read molecules died: out of memory, a crash inside RDKit, or a script "
            "without `if __name__ == '__main__':`"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
