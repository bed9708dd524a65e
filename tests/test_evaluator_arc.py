"""The ARC evaluator: votes, ties, ranks, unknown answers, pooling several evaluations, submissions."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from arc_samples import build

from dataset.families.arc.grids import encode, split_name
from dataset.format import open_split, read_identifiers
from evaluators.arc import ARC
from evaluators.arc.votes import files_up_to
from utils.errors import UserError


def alone(value):
    return [value]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("arc") / "built", "--num-aug", "11", "--test-set-name2", "concept")


def evaluator(folder: Path, **options) -> ARC:
    return ARC([str(folder)], open_split(folder, "test").metadata, **options)


def test_stream(folder: Path) -> dict[str, torch.Tensor]:
    """Return the whole test split, with labels as predictions."""
    examples = open_split(folder, "test").sets["all"]
    rows = np.arange(examples.num_examples)
    inputs, labels = (torch.from_numpy(tokens.astype(np.int32)) for tokens in examples.read(rows))
    identifiers = torch.from_numpy(examples.puzzle_identifiers[examples.puzzles_of(rows)])
    return {
        "inputs": inputs,
        "preds": labels,
        "puzzle_identifiers": identifiers,
        "q_halt_logits": torch.zeros(len(rows)),
    }


test_stream.__test__ = False  # not a test, despite its name


def feed(to: ARC, outputs: dict[str, torch.Tensor], rows: torch.Tensor | None = None, size: int = 8) -> None:
    rows = torch.arange(len(outputs["preds"])) if rows is None else rows
    for part in rows.split(size):
        to.update("all", {key: value[part] for key, value in outputs.items()}, part)


def assert_acceptable(submission: object, num_inputs: dict[str, int], attempts: int = 2) -> None:
    """Check that a submission has exactly the test tasks, with all attempts for each test input, and only grids."""
    assert isinstance(submission, dict)
    assert {name: len(answers) for name, answers in submission.items()} == num_inputs
    for answers in submission.values():
        for answer in answers:
            assert sorted(answer) == [f"attempt_{number + 1}" for number in range(attempts)]
            for grid in answer.values():
                assert 1 <= len(grid) <= 30
                assert {len(row) for row in grid} == {len(grid[0])} <= set(range(1, 31))
                assert all(type(cell) is int and 0 <= cell <= 9 for row in grid for cell in row)


def scrambled(outputs: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Make some predictions wrong and some garbage, with random confidences and many ties."""
    rng = np.random.default_rng(seed)
    preds = outputs["preds"].numpy().copy()
    for row in np.flatnonzero(rng.random(len(preds)) < 0.7):
        kind = rng.integers(3)
        if kind == 0:
            preds[row] = encode(rng.integers(0, 10, (1, 2), np.uint8))
        elif kind == 1:
            preds[row] = preds[rng.integers(len(preds))]
        else:
            preds[row] = rng.integers(0, 12, preds.shape[1])
    logits = torch.from_numpy(rng.integers(-1, 2, len(preds)).astype(np.float32))
    return outputs | {"preds": torch.from_numpy(preds), "q_halt_logits": logits}


# ------------------------------------------------------------------------------------------ scores


def test_right_answers_score_1_and_are_submitted(built, tmp_path):
    arc = evaluator(built)
    feed(arc, test_stream(built))
    values = arc.result(alone, tmp_path)
    assert values == {f"ARC/pass@{k}": 1.0 for k in (1, 2, 5, 10, 100, 1000)}
    submission = json.loads((tmp_path / "submission.json").read_text())
    puzzles = json.loads((built / "test_puzzles.json").read_text())
    for name, puzzle in puzzles.items():
        assert [answer["attempt_1"] for answer in submission[name]] == [
            pair["output"] for pair in puzzle["test"]
        ]


def test_values_are_the_share_of_test_inputs_solved_averaged_over_tasks(built):
    arc = evaluator(built, pass_Ks=[1])
    outputs = test_stream(built)
    names = read_identifiers(built)
    puzzles = json.loads((built / "test_puzzles.json").read_text())
    several = next(name for name, puzzle in puzzles.items() if len(puzzle["test"]) > 1)
    # Predict only one test input of one task, in all its copies.
    wanted = encode(np.array(puzzles[several]["test"][0]["input"], np.uint8))
    rows = []
    for row, identifier in enumerate(outputs["puzzle_identifiers"].tolist()):
        task, augmentation = split_name(names[identifier])
        grid = augmentation.apply(np.array(puzzles[several]["test"][0]["input"], np.uint8))
        if task == several and np.array_equal(outputs["inputs"][row].numpy(), encode(grid)):
            rows.append(row)
    assert len(rows) == 12
    assert any(np.array_equal(outputs["inputs"][row].numpy(), wanted) for row in rows)
    feed(arc, outputs, torch.tensor(rows))
    share = 1 / len(puzzles[several]["test"]) / len(puzzles)
    assert arc.result(alone, None) == {"ARC/pass@1": pytest.approx(share)}


def one_task(folder: Path, answers: list | None, num_aug: int = 0) -> Path:
    """Build a dataset with a single test task "t", with inputs [[1]], and [[2]] if there are two answers."""
    tests = [{"input": [[number + 1]]} for number in range(len(answers or [0]))]
    tasks = {"t": {"train": [{"input": [[1, 2]], "output": [[3, 4]]}], "test": tests}}
    folder.mkdir(parents=True)
    (folder / "own_evaluation_challenges.json").write_text(json.dumps(tasks))
    if answers is not None:
        (folder / "own_evaluation_solutions.json").write_text(json.dumps({"t": answers}))
    return build(folder / "d", "--num-aug", str(num_aug), subsets="evaluation", prefix=folder / "own")


def predict(*votes: tuple[int, int, float]) -> dict[str, torch.Tensor]:
    """Make predictions for the original task of `one_task`: (input colour, predicted colour, q_halt logit)."""
    inputs, preds = (np.stack([encode(np.full((1, 1), vote[i], np.uint8)) for vote in votes]) for i in (0, 1))
    return {
        "inputs": torch.from_numpy(inputs),
        "preds": torch.from_numpy(preds),
        "puzzle_identifiers": torch.ones(len(votes), dtype=torch.int32),
        "q_halt_logits": torch.tensor([vote[2] for vote in votes]),
    }


@pytest.mark.parametrize(
    ("votes", "ranking"),
    [
        ([(1, 5, 9.0), (1, 6, -9.0), (1, 6, -9.0)], [6, 5]),  # votes before confidence
        ([(1, 5, -1.0), (1, 6, 1.0)], [6, 5]),  # confidence breaks ties of votes
        ([(1, 5, 6.0), (1, 5, -1.0), (1, 6, 1.0), (1, 6, 1.0)], [6, 5]),  # mean confidence, after the sigmoid
        ([(1, 5, 1.0), (1, 6, 1.0)], [5, 6]),  # then the order of the stream
    ],
)
def test_candidates_rank_by_votes_then_confidence_then_order(tmp_path, votes, ranking):
    arc = evaluator(one_task(tmp_path / "x", [[[6]]]), pass_Ks=(1, 2))
    feed(arc, predict(*votes), size=1)
    values = arc.result(alone, tmp_path / "out")
    assert values == {"ARC/pass@1": float(ranking[0] == 6), "ARC/pass@2": 1.0}
    answer = json.loads((tmp_path / "out" / "submission.json").read_text())["t"]
    assert answer == [{"attempt_1": [[ranking[0]]], "attempt_2": [[ranking[1]]]}]


def test_attempts_differ_and_every_input_has_them(tmp_path):
    folder = one_task(tmp_path / "x", [[[5]], [[6]]])
    arc = evaluator(folder, submission_K=3)
    outputs = predict((1, 5, 0.0), (1, 5, 0.0), (1, 7, 0.0))
    outputs["preds"][2] = 0  # an empty grid
    feed(arc, outputs)
    assert arc.result(alone, tmp_path / "out")["ARC/pass@1"] == 0.5
    submission = json.loads((tmp_path / "out" / "submission.json").read_text())
    # With shapes different from the first attempt.
    fallbacks = {"attempt_2": [[0, 0]], "attempt_3": [[0, 0, 0]]}
    assert submission == {"t": [{"attempt_1": [[5]], **fallbacks}, {"attempt_1": [[2]], **fallbacks}]}
    assert_acceptable(submission, {"t": 2}, attempts=3)


def test_empty_predictions_are_replaced_by_the_runner_up_or_the_input(tmp_path):
    folder = one_task(tmp_path / "x", [[[5]]])
    arc = evaluator(folder)
    outputs = predict(*[(1, 5, 0.0)] * 6)
    outputs["preds"][:3] = 0  # most votes are for an empty grid
    outputs["preds"][5] = torch.from_numpy(encode(np.full((2, 2), 7, np.uint8)))
    feed(arc, outputs)
    arc.result(alone, tmp_path / "out")
    submitted = json.loads((tmp_path / "out" / "submission.json").read_text())["t"]
    assert submitted == [{"attempt_1": [[5]], "attempt_2": [[7, 7], [7, 7]]}]
    arc.begin()
    feed(arc, {key: value[[5, 5]] for key, value in outputs.items()})
    arc.result(alone, tmp_path / "out")
    submitted = json.loads((tmp_path / "out" / "submission.json").read_text())["t"]
    assert submitted == [{"attempt_1": [[7, 7], [7, 7]], "attempt_2": [[1]]}]


def test_known_answers_are_scored_if_others_are_unknown(tmp_path):
    arc = evaluator(one_task(tmp_path / "x", [[[5]], None]), pass_Ks=[1])
    assert arc.remark() == (
        "1 of 2 answers unknown: these test inputs are not scored, each evaluation writes a submission"
    )
    feed(arc, predict((1, 5, 0.0), (2, 0, 0.0)))
    assert arc.result(alone, tmp_path / "out") == {"ARC/pass@1": 1.0}
    path = tmp_path / "out" / "submission.json"
    assert arc.remark() == f"1 of 2 answers unknown, submission written to {path} with 1 tasks, 2 inputs"


def test_tasks_without_known_answers_are_submitted_but_not_scored(built, tmp_path):
    folder = one_task(tmp_path / "x", None)
    arc = evaluator(folder)
    feed(arc, predict((1, 0, 0.0)))  # the placeholder [[0]] itself
    assert arc.result(alone, tmp_path / "out") == {}
    assert json.loads((tmp_path / "out" / "submission.json").read_text())["t"][0]["attempt_1"] == [[0]]
    # Conversely, a task with the true answer [[0]] counts ...
    known = one_task(tmp_path / "y", [[[0]]])
    arc = evaluator(known, pass_Ks=[1])
    feed(arc, predict((1, 0, 0.0)))
    assert arc.result(alone, None) == {"ARC/pass@1": 1.0}
    assert arc.remark() is None
    # ... unless the builder did not record which answers are known.
    path = known / "test" / "dataset.json"
    metadata = json.loads(path.read_text())
    del metadata["unknown_answers"]
    path.write_text(json.dumps(metadata))
    assert evaluator(known).tasks.scored == []
    # An earlier version of the builder names them by task.
    for tasks in ([], ["t"]):
        path.write_text(json.dumps(metadata | {"unsolved_tasks": tasks}))
        assert evaluator(known).tasks.scored == [name for name in ["t"] if name not in tasks]
    path.write_text(json.dumps(metadata | {"unknown_answers": ["t"]}))
    with pytest.raises(UserError, match="unknown_answers is \\['t'\\], but must be an object"):
        evaluator(known)


def test_rows_with_the_blank_identifier_are_ignored(tmp_path):
    arc = evaluator(one_task(tmp_path / "x", [[[6]]]), pass_Ks=[1])
    outputs = predict((1, 6, 0.0), (1, 5, 0.0), (1, 5, 0.0))
    outputs["puzzle_identifiers"][1:] = 0
    feed(arc, outputs)
    assert arc.result(alone, None) == {"ARC/pass@1": 1.0}


def test_begin_clears_the_previous_evaluation(tmp_path):
    arc = evaluator(one_task(tmp_path / "x", [[[6]]]), pass_Ks=[1])
    feed(arc, predict((1, 6, 0.0), (1, 6, 0.0)))
    arc.begin()
    feed(arc, predict((1, 5, 0.0)))
    assert arc.result(alone, None) == {"ARC/pass@1": 0.0}


# ------------------------------------------------------------------------------------------ ranks


def on_ranks(size: int, function) -> list:
    """Run `function(rank, gather)` on threads that gather like processes."""
    barrier, slots, results = threading.Barrier(size), [None] * size, [None] * size

    def run(rank: int) -> None:
        def gather(value):
            slots[rank] = value
            barrier.wait(timeout=60)
            gathered = list(slots)
            barrier.wait(timeout=60)
            return gathered

        results[rank] = function(rank, gather)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("size", [2, 3])
def test_values_and_files_do_not_depend_on_the_number_of_ranks(built, tmp_path, size):
    outputs = scrambled(test_stream(built), seed=1)
    arc = evaluator(built)
    feed(arc, outputs)
    expected = arc.result(alone, tmp_path / "one")
    assert 0 < expected["ARC/pass@1"] < expected["ARC/pass@1000"]

    def run(rank: int, gather) -> dict:
        own = evaluator(built)
        for start in range(0, len(outputs["preds"]), 8):  # batches of 8, sliced among the ranks
            batch = torch.arange(start, min(start + 8, len(outputs["preds"])))
            mine = batch.tensor_split(size)[rank]
            own.update("all", {key: value[mine] for key, value in outputs.items()}, mine)
        return own.result(gather, tmp_path / "many")

    assert on_ranks(size, run) == [expected] + [{}] * (size - 1)
    for name in ("submission.json", "candidates.npz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_a_rank_without_rows_participates(built, tmp_path):
    outputs = test_stream(built)

    def run(rank: int, gather) -> dict:
        own = evaluator(built, pass_Ks=[1])
        if rank == 1:
            feed(own, outputs)
        return own.result(gather, tmp_path)

    assert on_ranks(2, run) == [{"ARC/pass@1": 1.0}, {}]


def test_a_garbage_model_still_yields_a_valid_submission(built, tmp_path):
    arc = evaluator(built)
    outputs = test_stream(built)
    noise = torch.randint(-3, 14, outputs["preds"].shape, generator=torch.Generator().manual_seed(0))
    feed(arc, outputs | {"preds": noise})
    arc.result(alone, tmp_path)
    puzzles = json.loads((built / "test_puzzles.json").read_text())
    submission = json.loads((tmp_path / "submission.json").read_text())
    assert_acceptable(submission, {name: len(puzzle["test"]) for name, puzzle in puzzles.items()})


# ------------------------------------------------------------------------------------------ pool


def test_the_pool_equals_one_evaluation_with_all_votes_and_survives_a_restart(built, tmp_path):
    outputs = [scrambled(test_stream(built), seed) for seed in (1, 2, 3)]
    arc = evaluator(built, aggregated_voting=True)
    values = {}
    for step, predictions in zip((90, 100, 1000), outputs, strict=True):  # numeric order, not alphabetical
        arc.begin()
        feed(arc, predictions)
        values[step] = arc.result(alone, tmp_path / f"evaluator_ARC_step_{step}")
    assert {key for key in values[90] if "pooled" in key} == {f"ARC/pooled_pass@{k}" for k in arc.pass_sizes}
    for k in arc.pass_sizes:
        assert values[90][f"ARC/pass@{k}"] == values[90][f"ARC/pooled_pass@{k}"]

    together = evaluator(built)
    count = len(outputs[0]["preds"])
    for number, predictions in enumerate(outputs):
        together.update("all", predictions, torch.arange(count) + number * count)
    expected = together.result(alone, None)
    assert {k: values[1000][f"ARC/pooled_pass@{k}"] for k in arc.pass_sizes} == {
        k: expected[f"ARC/pass@{k}"] for k in arc.pass_sizes
    }
    assert any(values[1000][f"ARC/pooled_pass@{k}"] != values[1000][f"ARC/pass@{k}"] for k in arc.pass_sizes)

    resumed = evaluator(built, aggregated_voting=True)  # a new process that resumes from step 90
    feed(resumed, outputs[1])
    assert resumed.result(alone, tmp_path / "evaluator_ARC_step_100") == values[100]


def test_the_pool_includes_only_earlier_steps_and_the_current_one_in_order(tmp_path):
    folder = one_task(tmp_path / "x", [[[6]]])
    pooled = {}
    for step, votes in ((90, [6]), (100, [5, 5]), (1000, [6, 6]), (100, [5, 5])):
        arc = evaluator(folder, pass_Ks=[1], aggregated_voting=True)
        feed(arc, predict(*((1, vote, 0.0) for vote in votes)))
        values = arc.result(alone, tmp_path / f"evaluator_ARC_step_{step}")
        pooled.setdefault(step, []).append(values["ARC/pooled_pass@1"])
    assert pooled == {90: [1.0], 100: [0.0, 0.0], 1000: [1.0]}
    steps = [path.parent.name for path in files_up_to(tmp_path / "evaluator_ARC_step_1000")]
    assert steps == [f"evaluator_ARC_step_{step}" for step in (90, 100, 1000)]


def test_nothing_is_pooled_by_default(built, tmp_path):
    for step, seed in ((1, 1), (2, 2)):
        arc = evaluator(built)
        feed(arc, scrambled(test_stream(built), seed))
        values = arc.result(alone, tmp_path / f"evaluator_ARC_step_{step}")
        assert not [key for key in values if "pooled" in key]


def test_an_invalid_pool_is_rejected(built, tmp_path):
    arc = evaluator(built, aggregated_voting=True)
    with pytest.raises(UserError, match="writes no files"):
        arc.result(alone, None)
    other = evaluator(one_task(tmp_path / "x", [[[6]]]))
    other.result(alone, tmp_path / "evaluator_ARC_step_1")
    with pytest.raises(UserError, match=r"step_1.candidates.npz: belongs to other test tasks"):
        arc.result(alone, tmp_path / "evaluator_ARC_step_2")
    (tmp_path / "evaluator_ARC_step_1" / "candidates.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"step_1.candidates.npz: is truncated or not an npz file"):
        arc.result(alone, tmp_path / "evaluator_ARC_step_2")


# ------------------------------------------------------------------------------------------ set-up


@pytest.mark.parametrize(
    "options",
    [{"pass_Ks": []}, {"pass_Ks": [0]}, {"pass_Ks": [1.5]}, {"submission_K": 0}, {"submission_K": True}],
)
def test_impossible_options_are_rejected(built, options):
    with pytest.raises(UserError, match=next(iter(options))):
        evaluator(built, **options)


def test_data_of_another_family_is_rejected(built, tmp_path):
    with pytest.raises(UserError, match="no test_puzzles"):
        ARC([str(tmp_path)], open_split(built, "test").metadata)


def test_an_identifier_that_is_not_in_the_list_is_rejected(tmp_path):
    arc = evaluator(one_task(tmp_path / "x", [[[6]]]))
    outputs = predict((1, 6, 0.0))
    outputs["puzzle_identifiers"][0] = 2
    with pytest.raises(UserError, match="puzzle identifier 2"):
        feed(arc, outputs)


def test_two_datasets_are_scored_together_and_lazy_ones_like_full_ones(built, tmp_path):
    start = str(len(read_identifiers(built)))
    second = build(tmp_path / "second", "--puzzle-identifiers-start", start, "--store", "lazy")
    task = one_task(tmp_path / "x", [[[6]]])
    metadata = open_split(second, "test").metadata
    # The third is not an ARC dataset.
    arc = ARC([str(built), str(second), str(tmp_path)], metadata, pass_Ks=[1])
    feed(arc, test_stream(second))
    scored = len(json.loads((second / "test_puzzles.json").read_text()))
    total = len(json.loads((built / "test_puzzles.json").read_text()))
    assert arc.result(alone, None)["ARC/pass@1"] == pytest.approx(scored / total)
    puzzles = json.loads((task / "test_puzzles.json").read_text())
    (task / "test_puzzles.json").write_text(
        json.dumps(puzzles | {"bad": {"test": [{"input": [[1, 2], [3]]}]}})
    )
    with pytest.raises(UserError, match="task bad, test pair 0, input: row 1"):
        evaluator(task)
