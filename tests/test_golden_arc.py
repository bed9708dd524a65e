"""ARC compared with the published code: helpers, builder (up to order, shifts and choices), evaluator."""

from __future__ import annotations

import json
from collections import Counter

import golden_files
import numpy as np
import pytest
import torch

from dataset.augment import dihedral
from dataset.build_arc_dataset import main as build
from dataset.families.arc.grids import SEQ_LEN, crop, encode, grid_hash, puzzle_hash, split_name
from dataset.format import Metadata, open_split, read_identifiers
from evaluators.arc import ARC


@pytest.fixture(scope="module")
def helpers() -> dict:
    path = golden_files.GOLDEN_DIR / "arc_helpers.json"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    return json.loads(path.read_text())


def grid(rows: list) -> np.ndarray:
    return np.array(rows, np.uint8)


def test_hashes_match_the_published_ones(helpers):
    for rows, expected in helpers["grid_hash"]:
        assert grid_hash(grid(rows)) == expected
    base = grid(helpers["base_grid"])
    assert puzzle_hash([(base, base.T), (base.T, base)]) == helpers["puzzle_hash_example"]


def test_dihedral_images_are_the_published_ones(helpers):
    base = grid(helpers["base_grid"])
    assert [dihedral(base, transform).tolist() for transform in range(8)] == helpers["dihedral"]


def test_augmentation_names_match_published_datasets(helpers):
    base = grid(helpers["base_grid"])
    for case in helpers["aug_np_random_seed_11"]:
        task, augmentation = split_name(case["name"])
        assert task == case["orig"]
        assert augmentation.apply(base).tolist() == case["mapped"]
        assert augmentation.invert(grid(case["mapped"])).tolist() == case["restored"]
    name, rows = helpers["inverse_of_unaugmented"]
    task, augmentation = split_name(name)
    assert (task, augmentation.invert(base).tolist()) == (name, rows)


def test_crops_of_valid_and_garbage_sequences_match_the_published_ones(helpers):
    sequences = golden_files.load("arc_seqs")
    for name, size in helpers["crop_shapes"].items():
        assert list(crop(sequences[name]).shape) == size, name
    for name, rows in helpers["crops"].items():
        assert crop(sequences[name]).tolist() == rows, name


def test_encoding_with_and_without_a_shift_gives_the_published_sequences(helpers):
    sequences = golden_files.load("arc_seqs")
    base = grid(helpers["base_grid"])
    for side, rows in (("in", base), ("out", base.T)):
        assert np.array_equal(encode(rows), sequences[f"notrans_{side}"])
        shifted = sequences[f"trans_seed5_{side}"]
        first = np.argwhere(shifted.reshape(30, 30) >= 2).min(0)
        assert np.array_equal(encode(rows, *first), shifted)
    assert np.array_equal(encode(crop(sequences["tall_in"])), sequences["tall_in"])


# ------------------------------------------------------------------------------------------ builder


def unshifted(sequence: np.ndarray) -> np.ndarray:
    """Return the grid in a sequence at any position."""
    frame = sequence.reshape(30, 30)
    places = np.argwhere(frame >= 2)
    (top, left), (bottom, right) = places.min(0), places.max(0)
    found = frame[top : bottom + 1, left : right + 1] - np.uint8(2)
    assert np.array_equal(encode(found, top, left), sequence)
    return found


def puzzles(arrays: dict[str, np.ndarray], names: list[str], unknown: set[tuple[str, str]]) -> Counter:
    """Count each puzzle without augmentation: (task, its pairs regardless of order, shift and augmentation).

    Pairs in `unknown`, (task, input), must have the label of an unknown answer: empty here, [[0]] if published.
    """
    found = Counter()

    def original(augmentation, sequence) -> str:
        return json.dumps(augmentation.invert(unshifted(sequence)).tolist()) if sequence.any() else "unknown"

    bounds = arrays["puzzle_indices"]
    for puzzle, identifier in enumerate(arrays["puzzle_identifiers"]):
        task, augmentation = split_name(names[identifier])
        pairs = []
        for row in range(bounds[puzzle], bounds[puzzle + 1]):
            question, answer = (original(augmentation, arrays[key][row]) for key in ("inputs", "labels"))
            assert (answer == "unknown") <= ((task, question) in unknown)
            if (task, question) in unknown:
                assert answer in ("unknown", "[[0]]")
                answer = "unknown"
            pairs.append((question, answer))
        found[task, tuple(sorted(pairs))] += 1
    return found


@pytest.mark.parametrize("num_aug", [0, 3])
@pytest.mark.parametrize("store", ["full", "lazy"])
def test_the_builder_writes_the_published_dataset_up_to_order_shift_and_choice(tmp_path, num_aug, store):
    golden = golden_files.load("builders")
    for key in golden:
        if key.startswith("arc_src/") and str(golden[key]):
            name = key.removeprefix("arc_src/").removesuffix("_json")
            (tmp_path / f"src_{name}.json").write_text(str(golden[key]))
    gamma = json.loads(str(golden["arc_src/gamma_challenges_json"]))  # a train subset without solutions
    unknown = {(name, json.dumps(pair["input"])) for name, raw in gamma.items() for pair in raw["test"]}
    built = tmp_path / "built"
    build(
        f"--input-file-prefix {tmp_path}/src --output-dir {built} --subsets alpha beta gamma --test-set-name beta "
        f"--num-aug {num_aug} --workers 1 --store {store}".split()
    )
    names = read_identifiers(built)
    prefix = f"arc_aug{num_aug}/"
    golden_names = json.loads(str(golden[prefix + "identifiers_json"]))
    assert len(names) == len(golden_names)
    assert json.loads((built / "test_puzzles.json").read_text()) == json.loads(
        str(golden[prefix + "test_puzzles_json"])
    )
    for split in ("train", "test"):
        opened = open_split(built, split)
        expected = json.loads(str(golden[f"{prefix}{split}/dataset_json"]))
        written = opened.metadata.to_json()
        assert {key: written[key] for key in expected} == expected
        fields = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")
        theirs = {field: golden[f"{prefix}{split}/{field}"] for field in fields}
        examples = opened.sets["all"]
        ours = {field: getattr(examples, field) for field in fields[2:]}
        ours |= dict(zip(fields, examples.read(np.arange(examples.num_examples)), strict=False))
        for field in fields:
            assert ours[field].shape == theirs[field].shape, (split, field)
            assert str(ours[field].dtype) == str(golden[f"{prefix}{split}/{field}@dtype"]), (split, field)
        assert puzzles(ours, names, unknown) == puzzles(theirs, golden_names, unknown)
        copies = [split_name(names[identifier])[0] for identifier in ours["puzzle_identifiers"]]
        expected = sum(len(gamma[name]["test"]) for name in copies if name in gamma and split == "train")
        assert (~ours["labels"].any(1)).sum() == expected
        if split == "test" and num_aug == 0:  # no shifts and no choices, so rows are equal
            assert Counter(row.tobytes() for row in ours["inputs"]) == Counter(
                r.tobytes() for r in theirs["inputs"]
            )
            assert Counter(row.tobytes() for row in ours["labels"]) == Counter(
                r.tobytes() for r in theirs["labels"]
            )
    # In order of first use: identifiers of the train split are increasing.
    assert np.array_equal(open_split(built, "train").sets["all"].puzzle_identifiers, np.arange(1, len(names)))


# ------------------------------------------------------------------------------------------ evaluator


def golden_evaluator(folder, **options) -> tuple[ARC, dict[str, torch.Tensor], dict[str, np.ndarray]]:
    golden = golden_files.load("arc_eval")
    (folder / "test").mkdir(parents=True, exist_ok=True)
    (folder / "identifiers.json").write_text(str(golden["identifiers_json"]))
    (folder / "test_puzzles.json").write_text(str(golden["test_puzzles_json"]))
    names = json.loads(str(golden["identifiers_json"]))
    metadata = Metadata(0, 0, 0, 12, SEQ_LEN, len(names), 4, 1.0, len(names), ("all",))
    (folder / "test" / "dataset.json").write_text(json.dumps(metadata.to_json()))
    fields = ("inputs", "preds", "puzzle_identifiers", "q_halt_logits")
    outputs = {field: torch.from_numpy(golden[field]) for field in fields}
    return ARC([str(folder)], metadata, **options), outputs, golden


def test_scores_and_submission_are_the_published_ones(tmp_path):
    evaluator, outputs, golden = golden_evaluator(tmp_path / "data")
    rows = len(outputs["preds"])
    for first in range(0, rows, 7):
        part = {key: value[first : first + 7] for key, value in outputs.items()}
        evaluator.update("all", part, torch.arange(first, min(first + 7, rows)))
    values = evaluator.result(lambda value: [value], tmp_path / "evaluator_ARC_step_10")
    assert values == json.loads(str(golden["result_json"]))
    submission = json.loads((tmp_path / "evaluator_ARC_step_10" / "submission.json").read_text())
    # If the published code submits nothing, a fallback answer is expected.
    question = json.loads(str(golden["test_puzzles_json"]))["p3"]["test"][0]["input"]
    expected = json.loads(str(golden["submission_json"]))
    assert submission == expected | {"p3": [{"attempt_1": question, "attempt_2": [[0]]}]}
