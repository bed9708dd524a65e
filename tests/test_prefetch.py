"""Prefetching: the same batches in the same order, errors at their position, and no remaining thread."""

import gc
import itertools
import threading
import time

import pytest
import torch
from numbered_datasets import as_lists, build_ragged, train

from puzzle_dataset import Prefetcher
from utils.errors import UserError


@pytest.fixture
def ragged(tmp_path):
    return build_ragged(tmp_path)


# ------------------------------------------------------------------------------------------ prefetching


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetcher")]


def items(count):
    return (("all", {"inputs": torch.tensor([i])}, i) for i in range(count))


@pytest.mark.parametrize("depth", [1, 3, 100])
def test_prefetching_does_not_change_batches(ragged, depth):
    assert as_lists(Prefetcher(train(ragged).batches(1), depth=depth)) == as_lists(train(ragged).batches(1))
    assert not threads()


def test_an_error_of_the_source_is_raised_at_its_position():
    def failing():
        yield from items(2)
        raise UserError("bad row")

    prefetcher = Prefetcher(failing(), depth=5)
    assert [count for _, _, count in itertools.islice(prefetcher, 2)] == [0, 1]
    with pytest.raises(UserError, match="bad row"):
        next(prefetcher)
    assert not threads()
    with pytest.raises(StopIteration):
        next(prefetcher)


def test_leaving_early_stops_the_thread_and_closes_the_source():
    closed = []

    def endless():
        try:
            yield from items(10**9)
        finally:
            closed.append(True)

    with Prefetcher(endless()) as prefetcher:
        next(prefetcher)
    assert not threads()
    gc.collect()
    assert closed
    assert list(prefetcher) == []
    prefetcher.close()  # closing again is harmless


def test_an_abandoned_prefetcher_stops_its_thread():
    prefetcher = Prefetcher(items(10**9))
    next(prefetcher)
    del prefetcher
    gc.collect()
    for _ in range(100):
        if not threads():
            break
        time.sleep(0.05)
    assert not threads()


def test_no_more_than_depth_batches_are_prepared_ahead():
    prepared = []

    def counting():
        for item in items(50):
            prepared.append(item)
            yield item

    with Prefetcher(counting(), depth=3) as prefetcher:
        for taken in range(1, 5):
            next(prefetcher)
            time.sleep(0.05)
            assert taken < len(prepared) <= taken + 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs CUDA")
def test_prefetched_batches_are_page_locked_on_request(ragged):
    with Prefetcher(train(ragged).batches(1), pin_memory=True) as prefetcher:
        assert all(tensor.is_pinned() for _, batch, _ in prefetcher for tensor in batch.values())
