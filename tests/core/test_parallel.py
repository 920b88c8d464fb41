"""Work on many items side by side."""

import threading

import pytest
import torch

from scrflow.core.parallel import mapped


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_from_several_threads(threads):
    torch.set_num_threads(2)
    seen, together = set(), threading.Barrier(threads, timeout=60)

    def work(i: int) -> int:
        seen.add((threading.get_ident(), torch.get_num_threads()))
        if i < threads:
            together.wait()  # each of the first ones has a thread
        return i * i

    assert list(mapped(work, range(12), threads)) == [i * i for i in range(12)]
    assert len({thread for thread, _ in seen}) == threads
    assert {count for _, count in seen} == {1}
    assert torch.get_num_threads() == 2


def test_an_error_comes_out_and_little_is_begun_after_it():
    begun = []

    def work(i: int) -> int:
        begun.append(i)
        if i == 3:
            raise ValueError("three")
        return i

    results = mapped(work, iter(range(1000)), 2)
    with pytest.raises(ValueError, match="three"):
        list(results)
    # three results were handed out, and no more than 2 x 2 + 1 items are under way
    assert len(begun) <= 9
