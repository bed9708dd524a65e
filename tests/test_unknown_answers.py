"""Test examples with unknown answers in training, evaluation and metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from arc_samples import build as build_arc
from conftest import write_identified
from training_runs import in_process_command, metrics, tiny, train

import evaluate as evaluate_command
from dataset import report
from dataset.families.arc.grids import encode
from dataset.format import IGNORE_LABEL_ID, SPLITS, SplitWriter, open_split, validate, write_identifiers
from evaluators.evaluation import evaluate
from evaluators.maze import Maze
from evaluators.sudoku import Sudoku
from puzzle_dataset import PuzzleDataset
from training_run import build
from utils.distributed import World

PLACEHOLDER = encode(np.zeros((1, 1), np.uint8))


def arc_data(folder: Path, known: int, tasks: int = 4, *options: str) -> Path:
    """Build an ARC dataset of test tasks with one input each; the answers of the first `known` are given."""
    folder.mkdir()
    raw = {
        f"task{n}": {"train": [{"input": [[n, 1]], "output": [[1, n]]}], "test": [{"input": [[n, 2, 2]]}]}
        for n in range(tasks)
    }
    (folder / "own_evaluation_challenges.json").write_text(json.dumps(raw))
    answers = {f"task{n}": [[[2, 2, n]]] for n in range(known)}
    (folder / "own_evaluation_solutions.json").write_text(json.dumps(answers))
    return build_arc(
        folder / "built", "--num-aug", "1", *options, subsets="evaluation", prefix=folder / "own"
    )


def run_on(data: Path, folder: Path, **values) -> Path:
    """Train with two evaluations and the default evaluator."""
    settings = {"evaluators": None, "global_batch_size": 4, "epochs": 4, "early_stop_patience": 1}
    train(data, folder, "arch.puzzle_emb_len=1", **settings | values)
    return folder


def submission_of(folder: Path) -> Path:
    return max(
        folder.glob("evaluator_ARC_step_*/submission.json"), key=lambda p: int(p.parent.name.split("_")[-1])
    )


def test_a_run_without_known_answers_writes_a_submission_and_has_no_score(tmp_path, capsys):
    data = arc_data(tmp_path / "data", known=0)
    run = run_on(data, tmp_path / "run")
    out, path = capsys.readouterr().out, submission_of(run)
    assert "answers unknown: these test inputs are not scored" in out  # at the start
    written = f"answers unknown, submission written to {path} with 4 tasks, 4 inputs"
    assert written in out
    assert out.count("best_metric=test/exact_accuracy has no value") == 1
    assert "early_stop_patience=1 has no effect" in out
    result = (run / "result.txt").read_text()
    assert result.startswith("no score, because the answers to all 8 test examples are unknown, after ")
    assert written in result
    assert not [name for line in metrics(run) for name in line if name.startswith(("test/", "ARC/"))]
    assert len(list(run.glob("evaluator_ARC_step_*"))) == 2  # patience did not end the run
    assert not (run / "best").exists()
    steps = sorted(int(folder.name.split("_")[-1]) for folder in run.glob("evaluator_ARC_step_*"))
    assert all((run / f"step_{step}").exists() for step in steps)
    assert (run / f"state_step_{steps[-1]}").exists()
    submission = json.loads(path.read_text())
    assert sorted(submission) == [f"task{n}" for n in range(4)]
    for (attempts,) in submission.values():
        assert attempts["attempt_1"] != attempts["attempt_2"]


def test_a_best_metric_of_arc_is_not_an_error(tmp_path, capsys):
    run = run_on(arc_data(tmp_path / "data", known=0), tmp_path / "run", best_metric="ARC/pass@2")
    assert "best_metric=ARC/pass@2 has no value" in capsys.readouterr().out
    assert submission_of(run).exists()


def test_only_known_answers_are_scored(tmp_path, capsys):
    run = run_on(arc_data(tmp_path / "data", known=1), tmp_path / "run", epochs=2)
    assert "of 2 test examples with a known answer, of 8, (" in (run / "result.txt").read_text()
    assert "3 of 4 answers unknown, submission written to" in capsys.readouterr().out
    assert {"test/exact_accuracy", "ARC/pass@2"} <= metrics(run)[-1].keys()
    assert (run / "best").exists()


def test_evaluate_reports_the_submission_instead_of_a_score(tmp_path, capsys, monkeypatch):
    data = arc_data(tmp_path / "data", known=0)
    run = run_on(data, tmp_path / "run", epochs=2)
    capsys.readouterr()
    code = in_process_command(
        monkeypatch,
        tmp_path,
        f"checkpoint={run}",
        "out=report",
        "device=cpu",
        "halt=True",
        entry=evaluate_command,
    )
    out = capsys.readouterr().out
    assert code == 0, out
    assert "no row of 8 of 8 rows has a label, so there is no exact accuracy" in out
    (path,) = (tmp_path / "report").glob("evaluator_ARC_step_*/submission.json")
    remark = f"answers unknown, submission written to {path.relative_to(tmp_path)} with 4 tasks, 4 inputs"
    assert remark in out
    assert remark in (tmp_path / "report" / "report.json").read_text()


@pytest.mark.parametrize("store", ["full", "lazy"])
def test_placeholders_of_other_builders_are_not_answers(tmp_path, store):
    data = arc_data(tmp_path / "data", 1, 4, "--store", store)
    for split in SPLITS:  # as published: [[0]] for unknown answers, without recording which ones
        path = data / split / "dataset.json"
        values = json.loads(path.read_text())
        drop = ("family", "unknown_answers", "grid_shape")
        path.write_text(json.dumps({k: v for k, v in values.items() if k not in drop}))
    if store == "full":
        stored = np.load(data / "test" / "all__labels.npy")
        stored[~stored.any(1)] = PLACEHOLDER
        np.save(data / "test" / "all__labels.npy", stored)
    dataset = PuzzleDataset([str(data)], "test", global_batch_size=3)
    labels = torch.cat([batch["labels"][:count] for _, batch, count in dataset.batches()])
    assert (labels != IGNORE_LABEL_ID).any(1).sum() == 2
    assert validate(data) == []


def test_unlabelled_rows_do_not_change_metrics(tmp_path):
    """Three additional rows without labels do not change losses and shares."""
    results = []
    for name in ("plain", "more"):
        data = write_identified(tmp_path / name)
        run = build(tiny(data, tmp_path / f"run_{name}"), World())
        if name == "more":
            labels = np.load(data / "test" / "all__labels.npy")
            labels[[1, 4, 6]] = 0
            np.save(data / "test" / "all__labels.npy", labels)
        test = PuzzleDataset([str(data)], "test", global_batch_size=4)
        if name == "plain":  # without the rows
            keep = [0, 2, 3, 5]
            batches = list(test.batches())
            rows = {k: torch.cat([b[k][:n] for _, b, n in batches])[keep] for k in batches[0][1]}
            rows = ("all", rows, len(keep))
            test.batches = lambda rows=rows, **_: iter([rows])
        results.append(evaluate(run.state.model, test, World(), evaluators={}))
    assert results[0].keys() == results[1].keys()
    for key, value in results[0].items():
        assert results[1][key] == pytest.approx(value, rel=1e-5), key


@pytest.mark.parametrize(("evaluator", "size", "vocab"), [(Sudoku, 16, 6), (Maze, 9, 6)])
def test_family_metrics_count_exact_answers_among_labelled_rows(tmp_path, evaluator, size, vocab):
    question = np.full((3, size), 1 if evaluator is Sudoku else 2)
    question[:, 0], question[:, 1] = (2, 3) if evaluator is Sudoku else (3, 4)
    labels = question.copy()
    labels[1:] = 0
    for split in SPLITS:
        with SplitWriter(tmp_path / split, seq_len=size, vocab_size=vocab) as writer:
            writer.add_groups(question, labels, np.zeros(3, int))
            writer.close(1)
    write_identifiers(tmp_path, ["<blank>"])
    counts = evaluator([str(tmp_path)], open_split(tmp_path, "test").metadata)
    ignored = torch.from_numpy(np.where(labels == 0, IGNORE_LABEL_ID, labels))
    for last, exact in ((1, 1.0), (0, 0.0)):
        answers = torch.from_numpy(question.copy())
        answers[0, 2] += 1 - last
        counts.begin()
        outputs = {"inputs": torch.from_numpy(question), "labels": ignored, "preds": answers}
        counts.update("all", outputs, torch.arange(3))
        values = counts.result(lambda value: [value], None)
        assert values[f"{evaluator.__name__.lower()}/exact"] == exact
    counts.begin()
    counts.update("all", {key: value[1:] for key, value in outputs.items()}, torch.arange(1, 3))
    assert f"{evaluator.__name__.lower()}/exact" not in counts.result(lambda value: [value], None)


def test_the_report_counts_examples_without_a_label(tmp_path, capsys):
    data = arc_data(tmp_path / "data", known=1)
    report.main([str(data), "--examples", "1", "--color", "never"])
    out = capsys.readouterr().out
    assert "6 of 8 examples have no label: their answers are unknown" in out
    assert "  outputs: 0 of 2 (0%)" in out  # unknown answers are not compared
