"""Datasets with unique rows, and their batches, for tests of the order of examples."""

from __future__ import annotations

import numpy as np

from dataset.format import SplitWriter, write_identifiers
from puzzle_dataset import PuzzleDataset

SEQ_LEN, VOCAB = 5, 60
RAGGED = [[[3, 1], [2, 2, 5]], [[1], [4, 1, 2], [7]]]  # per dataset: examples of each puzzle of each group


def build(root, groups, *, split="train", first_identifier=1, names=None, first_token=1, **options):
    """Build a dataset with unique rows: inputs identify examples, and labels are inputs or ignored."""
    options = {"seq_len": SEQ_LEN, "vocab_size": VOCAB, **options}
    count = sum(map(sum, groups))
    cells = np.arange(first_token, first_token + count)
    inputs = np.stack(
        [cells % VOCAB, cells // VOCAB, *(cells * 7 % VOCAB for _ in range(SEQ_LEN - 2))], axis=1
    )
    labels = np.where(np.arange(SEQ_LEN) < 2, options.get("ignore_label_id", 0) or 0, inputs)
    identifier, row = first_identifier, 0
    with SplitWriter(root / split, **options) as writer:
        for puzzles in groups:
            end, ids = row + sum(puzzles), np.arange(identifier, identifier + len(puzzles))
            writer.add_group(inputs[row:end], labels[row:end], ids, np.array(puzzles))
            row, identifier = end, identifier + len(puzzles)
        writer.close(num_puzzle_identifiers=identifier)
    write_identifiers(root, ["<blank>", *(f"{names or root.name}{i}" for i in range(1, identifier))])
    return str(root)


def random_groups(seed=0, groups=12, most_puzzles=5, most_examples=6):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, most_examples, rng.integers(1, most_puzzles)).tolist() for _ in range(groups)]


def as_lists(batches):
    """Convert batches to lists, to compare them with `==`."""
    return [(name, {k: v.tolist() for k, v in batch.items()}, count) for name, batch, count in batches]


def build_ragged(folder):
    return build(folder / "ragged", random_groups())


def train(*paths, batch=8, **options):
    options = {"epochs_per_iter": 5, **options}
    return PuzzleDataset(list(paths), "train", global_batch_size=batch, **options)
