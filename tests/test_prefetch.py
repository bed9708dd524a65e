"""Batches on their way to the model: prefetched in order, with errors at their position, and narrow until there."""

import gc
import itertools
import json
import threading
import time

import numpy as np
import pytest
import torch
from numbered_datasets import as_lists, build, build_ragged, random_groups, train

from puzzle_dataset import Prefetcher, PuzzleDataset, on_device
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


# ------------------------------------------------------------------------------------------ narrow tokens


@pytest.mark.parametrize(
    ("vocab_size", "dtypes"),
    [
        (60, (torch.uint8, torch.int8)),
        (128, (torch.uint8, torch.int8)),
        (129, (torch.uint8, torch.int16)),
        (257, (torch.int16, torch.int16)),
        (32769, (torch.int32, torch.int32)),
    ],
)
@pytest.mark.parametrize("ignored", [0, None])
@pytest.mark.parametrize("split", ["train", "test"])
def test_narrow_batches_are_the_same_once_on_the_device(tmp_path, vocab_size, dtypes, ignored, split):
    folder = build(tmp_path / "data", random_groups(), split=split, ignore_label_id=ignored)
    described = tmp_path / "data" / split / "dataset.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"vocab_size": vocab_size}))
    for field in ("inputs", "labels"):  # also tokens at the end of the vocabulary
        path = described.with_name(f"all__{field}.npy")
        tokens = np.load(path).astype(np.int32)
        tokens[::3, -1] = vocab_size - 1
        np.save(path, tokens)
    data = PuzzleDataset([folder], split, global_batch_size=6)
    assert data.num_examples % 6, "the last test batch is padded"
    narrow = list(data.batches(1, narrow=True))
    assert {(batch["inputs"].dtype, batch["labels"].dtype) for _, batch, _ in narrow} == {dtypes}
    widened = [(name, on_device(batch, torch.device("cpu")), count) for name, batch, count in narrow]
    assert all(tensor.dtype == torch.int32 for _, batch, _ in widened for tensor in batch.values())
    assert as_lists(widened) == as_lists(data.batches(1))
    assert all(tensor.dtype == torch.int32 for _, batch, _ in data.batches(1) for tensor in batch.values())


def test_narrow_batches_may_be_changed_without_changing_the_data(ragged):
    data = train(ragged)
    for _, batch, _ in data.batches(1, narrow=True):
        batch["inputs"] += 1
        batch["labels"].fill_(0)
    assert as_lists(data.batches(1)) == as_lists(train(ragged).batches(1))
