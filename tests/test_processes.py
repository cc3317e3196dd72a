import os
import time
from collections.abc import Iterator

import pytest

from moleblend.processes import in_order


def slow_when_even(number: int) -> int:
    time.sleep(0.02 * (number % 2 == 0))
    return number


def test_alone_pieces_are_drawn_as_they_are_needed() -> None:
    drawn = []

    def pieces() -> Iterator[int]:
        for number in range(5):
            drawn.append(number)
            yield number

    results = in_order(slow_when_even, pieces(), 1)
    assert next(results) == 0
    assert drawn == [0]
    assert list(results) == [1, 2, 3, 4]


def test_results_come_in_the_order_of_the_work() -> None:
    assert list(in_order(slow_when_even, range(9), 2)) == list(range(9))


def test_a_process_that_dies_is_an_error_in_a_sentence() -> None:
    with pytest.raises(ChildProcessError, match="a process that read molecules died"):
        list(in_order(os._exit, [1], 2))
