"""Mapping in threads: in order, never far ahead, errors where they belong."""

import threading

import pytest

from cnn_lab.data.parallel import map_in_order


def test_only_a_few_items_are_taken_ahead():
    taken = []
    results = map_in_order(
        str, (taken.append(i) or i for i in range(1000)), num_threads=2, chunk_size=5
    )
    assert next(results) == "0"
    assert len(taken) <= 2 * 2 * 5 + 5
    assert list(results) == [str(i) for i in range(1, 1000)]


def test_an_error_comes_in_its_turn_and_ends_the_threads():
    def divide(number: int) -> float:
        return 10 / (5 - number)

    results = map_in_order(divide, range(100), num_threads=3)
    assert [next(results) for _ in range(5)] == [10 / (5 - i) for i in range(5)]
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() < before
