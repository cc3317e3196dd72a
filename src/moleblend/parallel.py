"""Parallel map that keeps the order of the items, on the cores of this machine or on Ray."""

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

from moleblend.config import check_choice
from moleblend.errors import SettingError, WorkerError

Engine = Literal["processes", "ray"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Handle = TypeVar("_Handle")

_IN_PROGRESS = 2
"""Items in progress per worker: workers do not wait, and memory stays bounded."""


def map_in_order(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    engine: Engine = "processes",
    n_workers: int | None = None,
    address: str | None = None,
) -> Iterator[_Result]:
    """Apply a function to items in several workers; results come in the order of the items.

    Items are consumed as workers need them, so they need not fit into memory together.

    Args:
        function: a function at the top level of a module, or a `partial` of one.
        items: picklable items.
        engine: `processes` of this machine, or the workers of `ray`. Processes are spawned, so a
            script needs `if __name__ == "__main__":`. With one worker or one item the function runs
            in this process.
        n_workers: by default one for each core (of the cluster).
        address: of a Ray cluster, whose machines need this version of moleblend. By default Ray is
            started on this machine, or a running one of this process is used.

    Raises:
        SettingError: an argument is invalid, or Ray is not installed.
        WorkerError: a worker died (out of memory, or a crash).
    """
    if n_workers is not None and n_workers < 1:
        raise SettingError(f"got n_workers={n_workers}, expected at least 1")
    check_choice("engine", engine, Engine)
    if engine == "ray":
        return _on_ray(function, items, n_workers, address)
    if address is not None:
        raise SettingError(
            f"got address={address} and engine={engine}, but only engine ray has an address"
        )
    return _on_processes(function, items, n_workers or os.cpu_count() or 1)


def end_with_parent() -> None:
    """End this process when its parent process ends, even by SIGKILL."""
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
    # Spawned, not forked: forking breaks the threads of torch and Arrow.
    pool = ProcessPoolExecutor(
        n_workers, mp_context=get_context("spawn"), initializer=end_with_parent
    )
    try:
        yield from _bounded(
            lambda item: pool.submit(function, item),
            lambda future: future.result(),
            chain(first, remaining),
            _IN_PROGRESS * n_workers,
            deque(),
        )
    except BrokenProcessPool as error:
        raise WorkerError(
            "a worker process died: out of memory, a crash in RDKit, or a script without "
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
        raise SettingError("engine ray needs Ray: pip install 'moleblend[ray]'") from error
    starts_ray = not ray.is_initialized()
    if starts_ray:
        if address is not None:
            _check_address(address)
        ray.init(
            address=address or "local",
            num_cpus=None if address else n_workers,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    task = ray.remote(_apply)
    n_cores = max(int(ray.cluster_resources().get("CPU", 1)), 1)
    limit = _IN_PROGRESS * (n_workers or n_cores)
    in_progress: deque[ray.ObjectRef] = deque()
    try:
        yield from _bounded(partial(task.remote, function), ray.get, items, limit, in_progress)
    except RayTaskError as error:  # its message is the traceback of the other process
        raise error.cause from error
    except RayError as error:
        raise WorkerError(f"Ray failed: {str(error).splitlines()[0]}") from error
    finally:
        for reference in in_progress:
            ray.cancel(reference)
        if starts_ray:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Check that the address accepts connections: Ray itself would retry for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        raise SettingError(
            f"got address={address}, expected a host and a port of a Ray cluster, such as a:6379"
        )
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise SettingError(f"{address}: no Ray cluster at this address ({error})") from error


def _apply(function: Callable[[_Item], _Result], item: _Item) -> _Result:
    """Call the function: Ray's remote functions cannot be a `partial`."""
    return function(item)


def _bounded(
    submit: Callable[[_Item], _Handle],
    result: Callable[[_Handle], _Result],
    items: Iterable[_Item],
    limit: int,
    in_progress: deque[_Handle],
) -> Iterator[_Result]:
    """Submit at most `limit` items ahead; yield results in order."""
    for item in items:
        in_progress.append(submit(item))
        if len(in_progress) > limit:
            yield result(in_progress.popleft())
    while in_progress:
        yield result(in_progress.popleft())
