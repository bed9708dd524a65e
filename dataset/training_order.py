"""Order of the training examples, a pure function of the seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from utils.errors import UserError

# Per iteration: all permutations are drawn before the first batch, at about a second per 10^8 draws.
MAX_DRAWS = 10**10
_CHEAPEST_PERMUTATION = 100  # call overhead of a small permutation, in draws
_DRAWS_AT_ONCE = 1 << 18  # groups drawn per planning step; bounds memory for any number of epochs


class TrainingOrder:
    """The examples of each batch, a pure function of seed, iteration and batch index.

    As published, groups are visited in the order of `epochs_per_iter` successive permutations drawn from
    Philox(seed + iteration), and then one puzzle of each group is drawn from the same generator. The examples of a
    puzzle and their order are drawn from a separate generator for each batch.
    """

    def __init__(
        self,
        group_starts: np.ndarray,
        puzzle_starts: np.ndarray,
        batch_size: int,
        seed: int,
        epochs_per_iter: int,
    ):
        # (groups + 1,): group g has the puzzles group_starts[g] to group_starts[g + 1] - 1.
        self._group_starts = group_starts
        self._puzzle_starts = puzzle_starts  # (puzzles + 1,): the same for the examples of a puzzle
        self._lengths = np.diff(puzzle_starts)
        self._group_sizes = np.diff(group_starts)
        self._batch_size, self._seed, self._epochs = batch_size, seed, epochs_per_iter
        self._counts: dict[int, int] = {}
        groups = len(self._group_sizes)
        most_epochs = MAX_DRAWS // max(groups, _CHEAPEST_PERMUTATION)
        if epochs_per_iter > most_epochs:
            raise UserError(
                f"an iteration of {epochs_per_iter:,} epochs over {groups:,} groups is shuffled before its first "
                f"batch, which would take minutes to hours: use an eval_interval (or epochs, if it is not set) of at "
                f"most {most_epochs}"
            )

    def num_batches(self, iteration: int) -> int:
        """Return the number of full batches in an iteration. Raises `UserError` if there is none."""
        if iteration not in self._counts:
            shortest, longest = int(self._lengths.min()), int(self._lengths.max())
            if shortest == longest:  # every batch takes the same number of draws
                count = self._epochs * len(self._group_sizes) // -(-self._batch_size // longest)
            else:
                count = sum(1 for _ in self._batch_puzzles(iteration))
            if not count:
                raise UserError(self._too_few_examples())
            self._counts[iteration] = count
        return self._counts[iteration]

    def batches(self, iteration: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (puzzles, examples), both (B,), for each batch from index `start` on."""
        for index, puzzles in enumerate(self._batch_puzzles(iteration)):
            if index >= start:
                yield self._choose_examples(puzzles, iteration, index)

    def _batch_puzzles(self, iteration: int) -> Iterator[np.ndarray]:
        """Yield the puzzles of each full batch; the last puzzle may contribute only some of its examples."""
        waiting = np.empty(0, np.int64)
        for drawn in self.drawn_puzzles(iteration):
            puzzles = np.concatenate([waiting, drawn])
            ends = np.cumsum(self._lengths[puzzles])
            first = used = 0
            while (last := int(np.searchsorted(ends, used + self._batch_size))) < len(puzzles):
                yield puzzles[first : last + 1]
                first, used = last + 1, int(ends[last])
            waiting = puzzles[first:]

    def drawn_puzzles(self, iteration: int) -> Iterator[np.ndarray]:
        """Yield one puzzle per group in the order of the iteration, in chunks of bounded size."""
        groups = len(self._group_sizes)
        orders, draws = self._generator(iteration), self._generator(iteration)
        for _ in range(self._epochs):
            # All permutations are drawn before the first puzzle; storing them could take gigabytes.
            draws.permutation(groups)
        per_piece = max(1, _DRAWS_AT_ONCE // groups)
        same_size = int(self._group_sizes.min()) == int(self._group_sizes.max())
        for begun in range(0, self._epochs, per_piece):
            epochs = min(per_piece, self._epochs - begun)
            order = np.concatenate([orders.permutation(groups) for _ in range(epochs)])
            first = self._group_starts[order]
            if same_size:  # the same sequence as below, ten times faster
                yield first + draws.integers(0, self._group_sizes[0], size=len(order))
            else:
                yield draws.integers(first, first + self._group_sizes[order])

    def _choose_examples(
        self, puzzles: np.ndarray, iteration: int, index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        lengths, starts = self._lengths[puzzles], self._puzzle_starts[puzzles]
        if len(puzzles) == self._batch_size and lengths[-1] == 1:
            return puzzles, starts
        rng = np.random.Generator(
            np.random.Philox(np.random.SeedSequence(self._seed, spawn_key=(iteration, index)))
        )
        # All examples of every puzzle but the last, shuffled within each puzzle by sorting (puzzle, random number).
        whole = lengths[:-1]
        position = np.repeat(np.arange(len(whole)), whole)
        within = np.arange(len(position)) - np.repeat(np.cumsum(whole) - whole, whole)
        shuffled = np.argsort(position + rng.random(len(position)))
        room = self._batch_size - len(position)
        tail = rng.choice(lengths[-1], room, replace=False)
        examples = np.concatenate([(starts[position] + within)[shuffled], starts[-1] + tail])
        return np.concatenate([puzzles[position], np.full(room, puzzles[-1])]), examples

    def _generator(self, iteration: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(seed=self._seed + iteration))

    def _too_few_examples(self) -> str:
        longest = np.maximum.reduceat(self._lengths, self._group_starts[:-1]).sum()
        epochs = "one epoch" if self._epochs == 1 else f"{self._epochs} epochs"
        groups = "one group" if len(self._group_sizes) == 1 else f"{len(self._group_sizes)} groups"
        return (
            f"an iteration of {epochs} over {groups} yields at most "
            f"{int(longest) * self._epochs} examples and fills no batch: global_batch_size is {self._batch_size}; "
            "use a smaller global_batch_size or a larger eval_interval"
        )
