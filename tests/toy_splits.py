"""A small dataset for tests of the format, written with `SplitWriter`."""

from __future__ import annotations

import numpy as np

from dataset.format import SplitWriter, write_identifiers

SEQ_LEN, VOCAB = 6, 9


def tokens(count, seed=0):
    return np.random.default_rng(seed).integers(1, VOCAB, (count, SEQ_LEN))


def new_writer(folder, **options):
    return SplitWriter(folder, seq_len=SEQ_LEN, vocab_size=VOCAB, **options)


def build(root, splits=("train", "test"), seed=0):
    """Build groups of 2 and 1 puzzles with 3, 1 and 2 examples in each split."""
    inputs, labels = tokens(6, seed), tokens(6, seed + 1)
    labels[0, :2] = 0
    for split in splits:
        with new_writer(root / split, extra={"family": "toy"}) as writer:
            writer.add_group(inputs[:4], labels[:4], np.array([1, 2]), np.array([3, 1]))
            writer.add_group(inputs[4:], labels[4:], np.array([3]), np.array([2]))
            writer.close(num_puzzle_identifiers=4)
    write_identifiers(root, ["<blank>", "a", "b", "c"])
    return inputs, labels
