"""From Kaggle's files to submission.json, and the checker of that file."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
from pages import ROOT, page
from test_commands import SMALL, shell

from dataset.families.arc.check_submission import main, submission_problems, summary
from dataset.families.arc.tasks import read_subset

SAMPLES = ROOT / "tests" / "data" / "arc"


@pytest.fixture(scope="module")
def tasks():
    return read_subset(str(SAMPLES / "sample"), "evaluation")


def answered(tasks, attempt=None) -> dict:
    """Return a valid submission: the right answer first (or `attempt`), then a grid of one cell."""
    return {
        task.name: [
            {"attempt_1": attempt or solution.tolist(), "attempt_2": [[7]]} for _, solution in task.test
        ]
        for task in tasks
    }


def test_a_valid_submission_is_counted_and_scored(tasks, tmp_path, capsys):
    path = tmp_path / "submission.json"
    submission = answered(tasks)
    name, count = tasks[0].name, sum(len(task.test) for task in tasks)
    submission[name][0]["attempt_1"] = [[7]]
    path.write_text(json.dumps(submission))
    arguments = [str(path), "--input-file-prefix", str(SAMPLES / "sample"), "--subset", "evaluation"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"valid, {len(tasks)} tasks, {count} test inputs, two attempts each" in out
    assert "attempt_2 repeats attempt_1 for 1 of them" in out
    assert f"solved {count - 1} of {count} test inputs with a known answer" in out


def test_without_answers_there_is_no_score(tasks, tmp_path):
    shutil.copy(SAMPLES / "sample_evaluation_challenges.json", tmp_path / "x_test_challenges.json")
    hidden = read_subset(str(tmp_path / "x"), "test")
    assert list(submission_problems(answered(tasks), hidden)) == []
    assert "the answers are unknown, so there is no score" in summary(answered(tasks), hidden)


BAD_ANSWERS = [
    ({"attempt_1": [[0]]}, "must be an object with exactly attempt_1 and attempt_2"),
    ({"attempt_1": [[0]], "attempt_2": [[0]], "attempt_3": [[0]]}, "must be an object with exactly"),
    ([[0]], "must be an object with exactly"),
    ({"attempt_1": [], "attempt_2": [[0]]}, "attempt_1: a grid must be a list"),
    ({"attempt_1": [[0]], "attempt_2": [[1, 2], [3]]}, "attempt_2: row 1 has 1 cells"),
    ({"attempt_1": [[10]], "attempt_2": [[0]]}, "is 10, but colours are integers 0..9"),
    ({"attempt_1": [[1.0]], "attempt_2": [[0]]}, "is 1.0, but colours are integers"),
    ({"attempt_1": [[0] * 31], "attempt_2": [[0]]}, "attempt_1: is 1 x 31, but the maximum is 30 x 30"),
    ({"attempt_1": None, "attempt_2": [[0]]}, "attempt_1: a grid must be a list"),
]


@pytest.mark.parametrize(("answer", "message"), BAD_ANSWERS)
def test_a_bad_answer_is_named(tasks, answer, message):
    submission = deepcopy(answered(tasks))
    submission[tasks[1].name][0] = answer
    (problem,) = submission_problems(submission, tasks)
    assert problem.startswith(f"task {tasks[1].name}, test input 0")
    assert message in problem


def test_missing_and_unknown_tasks_and_a_wrong_number_of_answers_are_named(tasks, tmp_path):
    submission = answered(tasks)
    first, second = tasks[0].name, tasks[1].name
    submission["other"] = submission.pop(first)
    submission[second] = submission[second] * 2
    problems = list(submission_problems(submission, tasks))
    assert problems == [
        f"task other is not among the {len(tasks)} tasks of this subset",
        f"task {first} is missing",
        f"task {second}: has {2 * len(tasks[1].test)} answers, but the task has {len(tasks[1].test)} test inputs",
    ]
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(submission))
    with pytest.raises(SystemExit) as end:
        main([str(path), "--input-file-prefix", str(SAMPLES / "sample"), "--subset", "evaluation"])
    assert end.value.code == 2


def test_a_submission_that_is_no_object_is_an_error(tasks):
    assert list(submission_problems([], tasks)) == ["must hold an object of tasks by name, but holds a list"]


@pytest.mark.slow
def test_the_commands_of_the_guide_end_in_a_valid_submission(tmp_path):
    """Train on the public tasks, adapt to the hidden ones, and submit; then the same with a CPU's commands."""
    for path in ROOT.iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists():
            (tmp_path / path.name).symlink_to(path)
    files = tmp_path / "kaggle" / "combined"
    shutil.copytree(SAMPLES, files)
    for path in files.glob("sample_*.json"):
        path.rename(path.with_name(path.name.replace("sample", "arc-agi")))
    shutil.copy(SAMPLES / "sample_evaluation_challenges.json", files / "arc-agi_test_challenges.json")
    guide = page("docs/guides/arc.md")
    small = f"{SMALL} arch.H_cycles=1 arch.L_cycles=1 arch.L_layers=1 grad_accum_steps=1 device=cpu"
    shell(
        tmp_path,
        "python -m dataset.build_arc_dataset --input-file-prefix kaggle/combined/arc-agi --num-aug 1 "
        "--output-dir data/arc2concept-aug-1000 --subsets training concept --test-set-name training",
    )
    shell(
        tmp_path,
        f"python pretrain.py +experiment=arc2_one_gpu checkpoint_path=checkpoints/arc2_one_gpu {small} "
        "epochs=1 eval_interval=1",
    )
    for heading, end in (("With a GPU", "resume=auto\n"), ("With a CPU", "resume=auto\n")):
        commands = guide.blocks("bash", heading)[0]
        for many in ("--num-aug 300", "--num-aug 8"):
            commands = commands.replace(many, "--num-aug 1")
        assert commands.count(end) == 1
        out = shell(tmp_path, commands.replace(end, f"resume=auto {small} max_minutes=1e-9\n"))
        assert "max_minutes=1e-09: stopped after step 1" in out
        assert "answers unknown, submission written to checkpoints/arc-test" in out
        assert "submission.json: valid, " in out
        assert "the answers are unknown, so there is no score" in out
        assert Path(tmp_path / "submission.json").exists()
    rehearsal = commands.replace("training test", "training evaluation").replace(
        "arc-test-cpu", "arc-rehearsal"
    )
    for option in ("--test-set-name", "--subset"):
        rehearsal = rehearsal.replace(f"{option} test", f"{option} evaluation")
    out = shell(tmp_path, rehearsal.replace(end, f"resume=auto {small} max_minutes=1e-9\n"))
    assert "submission.json: valid, " in out
    assert "test inputs with a known answer" in out
