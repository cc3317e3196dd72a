"""A function over many items, in order, on the cores of this machine or on Ray."""

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Literal, TypeVar

Engine = Literal["processes", "ray"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Ticket = TypeVar("_Ticket")

_UNDER_WAY = 2
"""Items that are under way at a time, for each worker: none waits, and memory stays bounded."""


def map_in_order(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    engine: Engine = "processes",
    n_workers: int | None = None,
    address: str | None = None,
) -> Iterator[_Result]:
    """Apply a function to items in several workers; results come in the order of the items.

    Items are taken as workers need them, so that they may be more than memory holds.

    Args:
        function: at the top level of a module, or a `partial` of such a one.
        items: what can be sent to another process.
        engine: `processes` of this machine, or the workers of `ray`. Processes are spawned, so a
            script needs `if __name__ == "__main__":`; one worker, or one item, needs none.
        n_workers: left out, one for each core (of the cluster).
        address: of a Ray cluster, whose machines need this moleblend; left out, Ray is started on
            this machine, or used as it runs in this process.

    Raises:
        ValueError: an argument is refused, or Ray is not installed.
        ChildProcessError: a worker died (no memory left, or a crash).
    """
    if n_workers is not None and n_workers < 1:
        raise ValueError(f"at least one worker is needed, not {n_workers}")
    if engine == "ray":
        return _on_ray(function, items, n_workers, address)
    if address is not None:
        raise ValueError(f"an address ({address}) is that of a Ray cluster: it needs engine ray")
    return _on_processes(function, items, n_workers or os.cpu_count() or 1)


def end_with_parent() -> None:
    """Let this process end when the one that spawned it is gone, even by SIGKILL."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _on_processes(
    function: Callable[[_Item], _Result], items: Iterable[_Item], n_workers: int
) -> Iterator[_Result]:
    remaining = iter(items)
    first = list(islice(remaining, 2))
    if n_workers == 1 or len(first) < 2:
        yield from map(function, chain(first, remaining))
        return
    # Spawned, not forked: torch and Arrow have threads, which a fork would break.
    pool = ProcessPoolExecutor(
        n_workers, mp_context=get_context("spawn"), initializer=end_with_parent
    )
    try:
        yield from _bounded(
            lambda item: pool.submit(function, item),
            lambda future: future.result(),
            chain(first, remaining),
            _UNDER_WAY * n_workers,
            deque(),
        )
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a process died: out of memory, a crash inside RDKit, or a script without "
            "`if __name__ == '__main__':`"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _on_ray(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    n_workers: int | None,
    address: str | None,
) -> Iterator[_Result]:
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ImportError as error:
        raise ValueError("engine ray needs Ray: pip install 'moleblend[ray]'") from error
    is_ours = not ray.is_initialized()
    if is_ours:
        if address is not None:
            _knock(address)
        ray.init(
            address=address or "local",
            num_cpus=None if address else n_workers,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    task = ray.remote(_apply)
    n_cores = max(int(ray.cluster_resources().get("CPU", 1)), 1)
    most = _UNDER_WAY * (n_workers or n_cores)
    under_way: deque[ray.ObjectRef] = deque()
    try:
        yield from _bounded(partial(task.remote, function), ray.get, items, most, under_way)
    except RayTaskError as error:  # its own text is the traceback of the other process
        raise error.cause from error
    except RayError as error:
        raise ChildProcessError(f"Ray gave up: {str(error).splitlines()[0]}") from error
    finally:
        for reference in under_way:
            ray.cancel(reference)
        if is_ours:
            ray.shutdown()


def _knock(address: str) -> None:
    """Refuse an address where nobody answers: Ray itself would go on asking for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError(
            f"{address}: the address of a Ray cluster is a host and a port, as in a:6379"
        )
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"{address}: no Ray cluster answers there ({error})") from error


def _apply(function: Callable[[_Item], _Result], item: _Item) -> _Result:
    """What Ray runs, as it takes no `partial` for a function."""
    return function(item)


def _bounded(
    begin: Callable[[_Item], _Ticket],
    end: Callable[[_Ticket], _Result],
    items: Iterable[_Item],
    most: int,
    under_way: deque[_Ticket],
) -> Iterator[_Result]:
    """Begin items ahead, at most so many; end them in order."""
    for item in items:
        under_way.append(begin(item))
        if len(under_way) > most:
            yield end(under_way.popleft())
    while under_way:
        yield end(under_way.popleft())
