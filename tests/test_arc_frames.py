"""ARC data in frames smaller than 30 x 30, `--max-grid`: content, scores, symmetries, training, solving, errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from arc_samples import PREFIX, build
from test_evaluator_arc import alone, assert_acceptable, evaluator, feed, test_stream
from training_runs import in_process_command, metrics, train

import evaluate
import solve
from dataset.augment import dihedral
from dataset.families import family_of
from dataset.families.arc.comparison import sample_of_unshifted, unshifted
from dataset.families.arc.grids import BORDER, FIRST_COLOUR, crop, encode, split_name
from dataset.families.arc.render import Frames, unpack
from dataset.families.arc.symmetry import ArcSymmetries
from dataset.format import SPLITS, open_split, read_identifiers, validate
from utils.errors import UserError

SIDE = 6
DEMONSTRATIONS, ANSWERS = "challenges", "solutions"


def subset(name: str, kind: str) -> dict:
    return json.loads(Path(f"{PREFIX}_{name}_{kind}.json").read_text())


def pairs_of(name: str) -> dict[str, tuple[list, list]]:
    """Return the demonstrations and the test pairs, as (input, output), of each task of a subset."""
    answers = subset(name, ANSWERS)
    return {
        task: (
            [(pair["input"], pair["output"]) for pair in raw["train"]],
            [(pair["input"], answer) for pair, answer in zip(raw["test"], answers[task], strict=True)],
        )
        for task, raw in subset(name, DEMONSTRATIONS).items()
    }


def fits(task: tuple[list, list], side: int) -> bool:
    return all(max(len(grid), len(grid[0])) <= side for pairs in task for pair in pairs for grid in pair)


def build_small(folder: Path, *options: str, side: int = SIDE) -> Path:
    return build(folder, "--max-grid", str(side), *options)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return build_small(tmp_path_factory.mktemp("arc") / "small")


# ------------------------------------------------------------------------------------------ content


@pytest.mark.parametrize("side", [4, 6, 11])
def test_only_tasks_whose_grids_all_fit_are_kept(tmp_path, capsys, side):
    folder = build_small(tmp_path / "d", side=side)
    assert validate(folder) == []
    expected, notes = set(), []
    for name in ("training", "concept", "evaluation"):
        tasks = pairs_of(name)
        kept = {task for task, pairs in tasks.items() if fits(pairs, side)}
        expected |= kept
        if len(kept) < len(tasks):
            notes.append(
                f"{len(kept)} of {len(tasks)} tasks of {name} have no grid larger than {side} x {side}"
            )
    assert {split_name(name)[0] for name in read_identifiers(folder)[1:]} == expected
    out = capsys.readouterr().out
    assert all(note in out for note in notes)
    for split in SPLITS:
        metadata = open_split(folder, split).metadata
        assert (metadata.seq_len, metadata.vocab_size) == (side * side, 12)
        assert metadata.extra["grid_shape"] == [side, side]
        assert metadata.extra["options"]["max_grid"] == side


def test_each_example_is_a_pair_of_its_task_somewhere_in_a_small_frame(small):
    names = read_identifiers(small)
    tasks = {
        task: pairs
        for name in ("training", "concept", "evaluation")
        for task, pairs in pairs_of(name).items()
    }
    tested = subset("evaluation", DEMONSTRATIONS).keys()
    tops = set()
    for split in SPLITS:
        examples = open_split(small, split).sets["all"]
        rows = np.arange(examples.num_examples)
        identifiers = examples.puzzle_identifiers[examples.puzzles_of(rows)]
        found: dict[int, list] = {}
        for identifier, *sequences in zip(identifiers.tolist(), *examples.read(rows), strict=True):
            frames = [sequence.reshape(SIDE, SIDE) for sequence in sequences]
            (top, left), *_ = (np.argwhere(frame >= FIRST_COLOUR).min(0).tolist() for frame in frames)
            tops.add((split, top, left))
            _, augmentation = split_name(names[identifier])
            pair = []
            for frame, sequence in zip(frames, sequences, strict=True):
                grid = crop(np.roll(frame, (-top, -left), (0, 1)).reshape(-1))
                assert np.array_equal(encode(grid, top, left, SIDE), sequence)
                pair.append(augmentation.invert(grid).tolist())
            found.setdefault(identifier, []).append(tuple(pair))
        for identifier, pairs in found.items():
            task = split_name(names[identifier])[0]
            demonstrations, tests = tasks[task]
            in_train = demonstrations if task in tested else demonstrations + tests
            assert pairs == (in_train if split == "train" else tests)
    assert {place for place in tops if place[0] == "test"} == {("test", 0, 0)}
    assert len(tops) > 5  # train examples are shifted


def test_a_lazy_set_equals_the_full_one(small, tmp_path):
    lazy = build_small(tmp_path / "lazy", "--store", "lazy")
    assert validate(lazy) == []
    for split in SPLITS:
        ours, theirs = (open_split(folder, split).sets["all"] for folder in (lazy, small))
        for our, their in zip(ours.read(slice(None)), theirs.read(slice(None)), strict=True):
            assert np.array_equal(our, their)
        assert np.array_equal(ours.puzzle_identifiers, theirs.puzzle_identifiers)


def test_a_maximum_of_30_is_the_published_frame(tmp_path):
    usual, stated = build(tmp_path / "usual"), build_small(tmp_path / "stated", side=30)
    for path in sorted(path.relative_to(usual) for path in usual.rglob("*") if path.is_file()):
        assert (usual / path).read_bytes() == (stated / path).read_bytes(), path


@pytest.mark.parametrize("side", [1, 2, 7, 29])
def test_frames_under_every_transform_and_possible_shift_are_encodings(side):
    rng = np.random.default_rng(side)
    sizes = sorted({1, side, max(1, side - 1), -(-side // 2)})
    shapes = [((a, b), (b, c)) for a in sizes for b in sizes for c in sizes]
    pairs = [tuple(rng.integers(0, 10, shape, np.uint8) for shape in both) for both in shapes]
    frames = Frames(pairs, side)
    for number, pair in enumerate(pairs):
        for transform in range(8):
            rows, columns = frames.room(np.array([number]), np.array([transform]))[0].tolist()
            places = [(r, c) for r in {0, rows // 2, rows} for c in {0, columns // 2, columns}]
            same = np.zeros(len(places), int)
            packed = frames.rows(same + number, same + transform, np.array(places), same, [bytes(range(256))])
            for place, *sequences in zip(places, *unpack(packed), strict=True):
                for grid, sequence in zip(pair, sequences, strict=True):
                    assert np.array_equal(sequence, encode(dihedral(grid, transform), *place, side))


def test_shifted_grids_are_compared_as_if_they_were_not(small):
    rng = np.random.default_rng(3)
    for _ in range(50):
        height, width = rng.integers(1, SIDE + 1, 2).tolist()
        grid = rng.integers(0, 10, (height, width)).astype(np.uint8)
        place = rng.integers(0, [SIDE - height + 1, SIDE - width + 1]).tolist()
        rows = np.stack([encode(grid, 0, 0, SIDE), encode(grid, *place, SIDE)])
        first, second = unshifted(rows)
        assert np.array_equal(first, second)
        assert np.array_equal(first, np.where(rows[0] == BORDER, 0, rows[0]))
        one, other = sample_of_unshifted(rows)
        assert np.array_equal(one, other)


# ------------------------------------------------------------------------------------------ evaluation


def test_right_answers_score_1_and_are_submitted(small, tmp_path):
    arc = evaluator(small)
    feed(arc, test_stream(small))
    values = arc.result(alone, tmp_path)
    assert set(values.values()) == {1.0}
    submission = json.loads((tmp_path / "submission.json").read_text())
    expected = {task: tests for task, (_, tests) in pairs_of("evaluation").items()}
    assert {task: [answer["attempt_1"] for answer in answers] for task, answers in submission.items()} == {
        task: [output for _, output in tests] for task, tests in expected.items()
    }


def test_a_garbage_model_still_yields_a_valid_submission(small, tmp_path):
    outputs = test_stream(small)
    noise = np.random.default_rng(1).integers(0, 12, outputs["preds"].shape)
    arc = evaluator(small)
    feed(arc, outputs | {"preds": torch.from_numpy(noise)})
    assert arc.result(alone, tmp_path)["ARC/pass@1"] == 0
    num_inputs = {task: len(tests) for task, (_, tests) in pairs_of("evaluation").items()}
    assert_acceptable(json.loads((tmp_path / "submission.json").read_text()), num_inputs)


def test_symmetric_copies_stay_in_the_small_frame(small):
    names = read_identifiers(small)
    examples = open_split(small, "test").sets["all"]
    inputs, labels = examples.read(slice(0, 8))
    identifiers = examples.puzzle_identifiers[examples.puzzles_of(np.arange(8))]
    copies = ArcSymmetries(names).copies(inputs, identifiers, np.arange(8), 4, seed=0)
    assert copies.tokens.shape == (8 * 4, SIDE * SIDE)
    answers = []
    for row, identifier in enumerate(copies.identifiers.tolist()):
        now, then = (split_name(names[number])[1] for number in (identifiers[row // 4], identifier))
        answers.append(encode(then.apply(now.invert(crop(labels[row // 4]))), side=SIDE))
    restored = copies.undo(np.array(answers))
    assert np.array_equal(restored, np.repeat(labels, 4, axis=0))


def test_only_the_grid_of_an_answer_is_counted_and_judged(small):
    family = family_of(open_split(small, "test").metadata)
    assert family.shape == (SIDE, SIDE)
    grid = np.arange(8).reshape(2, 4).astype(np.uint8)
    clean = encode(grid, side=SIDE).astype(np.int64)
    noisy = np.where(clean == 0, 11, clean)
    assert np.array_equal(family.counted(noisy), np.where(clean == BORDER, 0, clean))
    assert family.judge(clean, noisy, clean).solved
    assert not family.judge(clean, encode(grid[:, :3], side=SIDE), clean).solved


def test_a_model_of_small_frames_is_trained_evaluated_and_asked(small, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    assert train(small, run, "arch.pos_encodings=rope2d", "arch.num_heads=1", evaluators=None, epochs=2) == 0
    assert "ARC/pass@2" in metrics(run)[-1]
    voted = [
        f"checkpoint={run}",
        "strategy=symmetry",
        "symmetries=3",
        "device=cpu",
        f"out={tmp_path / 'out'}",
    ]
    assert in_process_command(monkeypatch, tmp_path, *voted, entry=evaluate) == 0
    assert "test/exact_accuracy" in (tmp_path / "out" / "report.json").read_text()
    capsys.readouterr()
    solve.main([f"checkpoint={run}", "index=0", "device=cpu"])
    assert "step 3" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0", "argument --max-grid: 0 is too small: the minimum is 1"),
        ("31", "argument --max-grid: 31 is too large: the maximum is 30"),
        ("10x10", "argument --max-grid: '10x10' is not a whole number"),
        ("2", "--max-grid 2 leaves out every task of evaluation, so that there is no test split: raise it"),
    ],
)
def test_a_wrong_maximum_gives_one_line_that_names_it(tmp_path, capsys, value, message):
    with pytest.raises(SystemExit) as exit_:
        build(tmp_path / "built", "--max-grid", value)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "built").exists()


@pytest.mark.parametrize(
    ("seq_len", "message"),
    [
        (25, "has a grid with a side of 6, but seq_len in dataset.json is that of frames of 5 x 5"),
        (35, "square"),
    ],
)
def test_a_lazy_set_whose_frames_cannot_hold_its_grids_is_rejected(tmp_path, seq_len, message):
    folder = build_small(tmp_path / "d", "--store", "lazy")
    for split in SPLITS:
        path = folder / split / "dataset.json"
        content = json.loads(path.read_text()) | {"seq_len": seq_len}
        path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        open_split(folder, "train")


def test_small_frames_belong_to_arc_only_if_their_shape_is_recorded(tmp_path):
    folder = build_small(tmp_path / "d")
    path = folder / "test" / "dataset.json"
    content = json.loads(path.read_text())
    assert family_of(open_split(folder, "test").metadata).name == "arc"
    del content["grid_shape"]
    path.write_text(json.dumps(content))
    assert family_of(open_split(folder, "test").metadata).name is None
