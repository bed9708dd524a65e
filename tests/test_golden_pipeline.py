"""The data stream compared with the published code: order of groups and puzzles, batches, slices of ranks, padding."""

import json
import re

import numpy as np
import pytest
from golden_files import GOLDEN_DIR, load

from dataset.format import IGNORE_LABEL_ID
from dataset.training_order import TrainingOrder
from puzzle_dataset import PuzzleDataset

FIELDS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")
TRAIN_RUN = re.compile(
    r"(?P<data>.+)_b(?P<batch>\d+)_e(?P<epochs>\d+)(_seed(?P<seed>\d+))?(_r(?P<rank>\d+)of(?P<ranks>\d+))?"
)
TEST_RUN = re.compile(r"(?P<data>.+)_r(?P<rank>\d+)of(?P<ranks>\d+)")


def runs(kind: str) -> list[str]:
    """Return the runs in the file, except those over several directories, which are mixed here."""
    if not (GOLDEN_DIR / "pipeline.npz").exists():
        return []
    keys = np.load(GOLDEN_DIR / "pipeline.npz").files
    datasets = {key.split("/")[1] for key in keys if key.startswith("ds/")}
    names = sorted({key.split("/")[1] for key in keys if key.startswith(f"{kind}/")})
    pattern = TRAIN_RUN if kind == "train" else TEST_RUN
    return [name for name in names if pattern.fullmatch(name)["data"] in datasets]


@pytest.fixture(scope="module")
def golden():
    return load("pipeline")


def write_dataset(golden, name, split, root):
    """Write the dataset of the vectors in the format of older builders: plain arrays and dataset.json."""
    folder = root / name / split
    folder.mkdir(parents=True)
    for field in FIELDS:
        np.save(folder / f"all__{field}.npy", golden[f"ds/{name}/{field}"])
    (folder / "dataset.json").write_text(str(golden[f"ds/{name}/meta_json"]))
    return str(root / name)


def train_dataset(golden, run, root):
    settings = TRAIN_RUN.fullmatch(run)
    directory = write_dataset(golden, settings["data"], "train", root)
    return settings["data"], PuzzleDataset(
        [directory],
        "train",
        global_batch_size=int(settings["batch"]),
        seed=int(settings["seed"] or 0),
        epochs_per_iter=int(settings["epochs"]),
        rank=int(settings["rank"] or 0),
        world_size=int(settings["ranks"] or 1),
    )


def iterations(golden, run):
    return sorted({key.split("/")[2] for key in golden if key.startswith(f"train/{run}/iter")})


def runs_with_sampler() -> list[str]:
    """Return the training runs for which the file also has the raw draws."""
    return [run for run in runs("train") if f"train/{run}/sampler/group_order0" in load("pipeline")]


@pytest.mark.parametrize("run", runs_with_sampler())
def test_training_visits_the_published_groups_in_the_published_order(golden, run):
    settings = TRAIN_RUN.fullmatch(run)
    arrays = {field: golden[f"ds/{settings['data']}/{field}"].astype(np.int64) for field in FIELDS}
    group_starts, puzzle_starts = arrays["group_indices"], arrays["puzzle_indices"]
    seed, epochs = int(settings["seed"] or 0), int(settings["epochs"])
    order = TrainingOrder(group_starts, puzzle_starts, int(settings["batch"]), seed, epochs)
    for index, _ in enumerate(iterations(golden, run)):
        drawn = np.concatenate(list(order.drawn_puzzles(index + 1)))
        groups = np.searchsorted(group_starts, drawn, side="right") - 1
        np.testing.assert_array_equal(groups, golden[f"train/{run}/sampler/group_order{index}"])


@pytest.mark.parametrize("run", runs("train"))
def test_training_batches_hold_the_published_puzzles_row_by_row(golden, run, tmp_path):
    _, dataset = train_dataset(golden, run, tmp_path)
    for iteration in iterations(golden, run):
        prefix = f"train/{run}/{iteration}"
        names, batches, sizes = zip(*dataset, strict=True)  # each pass is another iteration
        identifiers = np.stack([batch["puzzle_identifiers"].numpy() for batch in batches])
        np.testing.assert_array_equal(identifiers, golden[f"{prefix}/puzzle_identifiers"])
        assert list(names) == json.loads(str(golden[f"{prefix}/set_names_json"]))
        assert list(sizes) == golden[f"{prefix}/global_effective_batch"].tolist()
        dtypes = {key: str(tensor.dtype) for key, tensor in batches[0].items()}
        assert dtypes == json.loads(str(golden[f"{prefix}/dtypes_json"]))


@pytest.mark.parametrize("run", runs("train"))
def test_training_batches_take_their_examples_from_the_published_puzzles(golden, run, tmp_path):
    data, dataset = train_dataset(golden, run, tmp_path)
    arrays = {field: golden[f"ds/{data}/{field}"].astype(np.int64) for field in FIELDS}
    ignored = json.loads(str(golden[f"ds/{data}/meta_json"]))["ignore_label_id"]
    labels = np.where(arrays["labels"] == ignored, IGNORE_LABEL_ID, arrays["labels"])
    number_of = {inputs.tobytes(): index for index, inputs in enumerate(arrays["inputs"])}
    puzzle_of = {identifier: index for index, identifier in enumerate(arrays["puzzle_identifiers"])}
    for iteration in iterations(golden, run):
        prefix = f"train/{run}/{iteration}"
        for index, (_, batch, _) in enumerate(dataset):
            rows = [number_of[row.tobytes()] for row in batch["inputs"].numpy().astype(np.int64)]
            published = [
                number_of[row.tobytes()] for row in golden[f"{prefix}/inputs"][index].astype(np.int64)
            ]
            np.testing.assert_array_equal(batch["labels"].numpy(), labels[rows])
            identifiers = golden[f"{prefix}/puzzle_identifiers"][index]
            for identifier in np.unique(identifiers):
                puzzle = puzzle_of[identifier]
                first, end = arrays["puzzle_indices"][puzzle : puzzle + 2]
                ours = [rows[i] for i in np.flatnonzero(identifiers == identifier)]
                theirs = [published[i] for i in np.flatnonzero(identifiers == identifier)]
                assert all(first <= example < end for example in ours)
                if len(ours) == end - first == len(set(theirs)):  # all examples of the puzzle were taken
                    assert sorted(ours) == sorted(theirs)


@pytest.mark.parametrize("run", runs("train"))
def test_training_metadata_is_the_published_one(golden, run, tmp_path):
    _, dataset = train_dataset(golden, run, tmp_path)
    assert dataset.metadata.to_json() == json.loads(str(golden[f"train/{run}/metadata_json"]))


@pytest.mark.parametrize("run", runs("test"))
def test_evaluation_batches_are_the_published_ones(golden, run, tmp_path):
    settings, prefix = TEST_RUN.fullmatch(run), f"test/{run}"
    directory = write_dataset(golden, settings["data"], "test", tmp_path)
    ranks = int(settings["ranks"])
    batch_size = golden[f"{prefix}/inputs"].shape[1] * ranks
    dataset = PuzzleDataset(
        [directory], "test", global_batch_size=batch_size, rank=int(settings["rank"]), world_size=ranks
    )
    names, batches, sizes = zip(*dataset, strict=True)
    assert list(names) == json.loads(str(golden[f"{prefix}/set_names_json"]))
    assert list(sizes) == golden[f"{prefix}/global_effective_batch"].tolist()
    for field in ("inputs", "labels", "puzzle_identifiers"):
        ours = np.stack([batch[field].numpy() for batch in batches])
        np.testing.assert_array_equal(ours, golden[f"{prefix}/{field}"])
