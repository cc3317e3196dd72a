import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from moleblend import parallel as engines
from moleblend.parallel import map_in_order


def double(number):
    return 2 * number


def double_slowly(number, first_s=0.0):
    time.sleep(first_s if number == 0 else 0)
    return 2 * number, os.getpid()


def refuse(number):
    if number == 3:
        raise ValueError("no threes")
    return number


def die(_):
    os._exit(1)


def test_here_with_one_worker_or_one_item():
    def here(item):  # could not be sent
        return item, os.getpid()

    assert list(map_in_order(here, "ab", n_workers=1)) == [("a", os.getpid()), ("b", os.getpid())]
    assert list(map_in_order(here, "a", n_workers=4)) == [("a", os.getpid())]
    assert list(map_in_order(here, [], n_workers=4)) == []


def test_processes_keep_the_order():
    results = list(map_in_order(partial(double_slowly, first_s=0.3), range(20), n_workers=2))
    assert [number for number, _ in results] == [2 * k for k in range(20)]
    processes = {process for _, process in results}
    assert len(processes) == 2
    assert os.getpid() not in processes


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_items_are_taken_as_they_are_needed(engine, request):
    if engine == "ray":
        request.getfixturevalue("ray_here")
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    results = map_in_order(double, items(), n_workers=2, engine=engine)
    for k, result in enumerate(results):
        assert result == 2 * k
        assert len(taken) <= k + 1 + engines._IN_PROGRESS * 2
    assert taken == list(range(50))


def test_what_goes_wrong_in_a_process():
    results = map_in_order(refuse, range(10), n_workers=2)
    with pytest.raises(ValueError, match="no threes"):
        list(results)
    with pytest.raises(ChildProcessError, match="a worker process died"):
        list(map_in_order(die, range(10), n_workers=2))


@pytest.mark.usefixtures("ray_here")
def test_ray_is_the_same_and_says_what_goes_wrong():
    results = list(map_in_order(partial(double_slowly, first_s=0.1), range(6), engine="ray"))
    assert [number for number, _ in results] == [0, 2, 4, 6, 8, 10]
    assert os.getpid() not in {process for _, process in results}
    with pytest.raises(ValueError, match="no threes") as caught:
        list(map_in_order(refuse, range(10), engine="ray"))
    assert str(caught.value) == "no threes"


def test_arguments_are_refused_at_once(monkeypatch):
    with pytest.raises(ValueError, match=r"got n_workers=.*, expected at least 1"):
        map_in_order(double, [1], n_workers=0)
    with pytest.raises(ValueError, match="only engine ray has an address"):
        map_in_order(double, [1], address="127.0.0.1:6379")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'moleblend\[ray\]'"):
        list(map_in_order(double, [1], engine="ray"))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_where_no_cluster_is(address, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ValueError, match=f"^{address}: no Ray cluster at this address"):
        list(map_in_order(double, [1], engine="ray", address=address))
    with pytest.raises(ValueError, match="a host and a port"):
        list(map_in_order(double, [1], engine="ray", address="auto"))


SCRIPT = """
import os, sys, time
from moleblend.parallel import map_in_order

def stay(number):
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    list(map_in_order(stay, range(4), n_workers=2))
"""


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 20
        while any(map(is_running, workers)):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
