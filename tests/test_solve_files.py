"""`solve.py puzzles=FILE out=FILE`: an answer or a reason for every line, in order and in constant memory."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scripted_model import BOX, ScriptedHead, solution
from strategy_runs import QUESTIONS, SUDOKU
from trained_folders import TINY_ARCH, randomised, write_run

import solve
from dataset.families import family_of
from dataset.families.sudoku.rules import is_solution
from evaluators import solving_files
from evaluators.calibration import Calibration, weights_sha256
from evaluators.inference import Solver
from evaluators.puzzle_files import COLUMNS, PuzzleLine
from evaluators.puzzle_stream import solve_stream
from evaluators.stop_rule import OWN_RULE
from evaluators.strategies.build import Choice, Setting, build_strategy
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
SIZES = {"seq_len": 16, "vocab_size": 6, "num_puzzle_identifiers": 1}
STEPS = TINY_ARCH["halt_max_steps"]
SYMBOLS = " .1234"


def text_of(tokens: np.ndarray) -> str:
    return "".join(SYMBOLS[token] for token in tokens)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    metadata = SIZES | {"family": "sudoku", "grid_shape": [4, 4], "box_shape": [2, 2]}
    folder = tmp_path_factory.mktemp("untrained") / "run"
    return write_run(folder, randomised(sizes=SIZES), metadata=metadata, data_paths=["not/here"])


def puzzles() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 6, (30, 16))


def solved(run: Path, *arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    try:
        solve.main([f"checkpoint={run}", "device=cpu", "batch_size=4", *map(str, arguments)])
    except SystemExit as end:
        return end.code
    return 0


def rows_of(path: Path) -> list[dict]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


LINES = ["# a comment", *map(text_of, puzzles()[:10]), "", "12x4", *map(text_of, puzzles()[10:]), "1234"]


@pytest.fixture(scope="module")
def answers(run, tmp_path_factory) -> Path:
    """The answers to a list with two lines that are not puzzles."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "list.txt").write_text("\n".join(LINES) + "\n")
    assert solved(run, f"puzzles={folder / 'list.txt'}", f"out={folder / 'answers.csv'}") == 1
    return folder / "answers.csv"


def test_each_line_has_an_answer_or_a_reason_in_order(answers):
    rows = rows_of(answers)
    assert tuple(rows[0]) == COLUMNS
    numbered = [(number, line) for number, line in enumerate(LINES, start=1) if line and line[0] != "#"]
    assert [(int(row["line"]), row["puzzle"]) for row in rows] == numbered
    bad = [row for row in rows if row["verdict"] == "invalid"]
    assert [row["puzzle"] for row in bad] == ["12x4", "1234"]
    assert "'x' at character 3" in bad[0]["message"]
    assert bad[1]["message"].startswith("the puzzle has 4 cells, but this model solves 4x4 Sudoku")
    assert bad[0]["answer"] == bad[0]["steps"] == bad[0]["confidence"] == ""
    found = Solver(randomised(sizes=SIZES)).solve(puzzles())
    good = [row for row in rows if row["verdict"] != "invalid"]
    assert [row["answer"] for row in good] == [text_of(answer) for answer in found.answer.numpy()]
    confidence = found.q_halt.sigmoid().numpy()
    assert [float(row["confidence"]) for row in good] == pytest.approx(confidence.tolist(), abs=1e-5)
    assert {row["steps"] for row in good} == {str(STEPS)}


@pytest.mark.parametrize("saved", [False, True])
def test_few_puzzles_are_solved_by_eager_code_unless_a_rule_is_chosen_first(
    saved, run, monkeypatch, tmp_path
):
    """Choosing one solves 2,000 puzzles."""
    (tmp_path / "list.txt").write_text(text_of(puzzles()[0]) + "\n")
    monkeypatch.setattr(solving_files, "matching_calibration", lambda *_: object() if saved else None)
    totals = []

    def compile_for(config, solver, total):
        totals.append(total)
        raise UserError("enough")

    monkeypatch.setattr(solving_files, "compile_for", compile_for)
    with pytest.raises(UserError, match="enough"):
        solved(run, f"puzzles={tmp_path / 'list.txt'}", f"out={tmp_path / 'a.csv'}", "halt=auto")
    assert totals == [1 if saved else None]


@pytest.mark.parametrize("name", ["table.csv", "table.tsv", "table.csv.gz", "lines.jsonl", "lines.jsonl.gz"])
@pytest.mark.parametrize("out", ["a.csv", "a.jsonl"])
def test_tables_and_json_lines_have_the_same_answers_as_the_list(name, out, run, answers, tmp_path):
    texts = [row["puzzle"] for row in rows_of(answers)]
    if "table" in name:
        comma = "\t" if "tsv" in name else ","
        lines = [comma.join(["id", "Quiz", "rating"]), *(comma.join(["7", text, ""]) for text in texts)]
    else:
        lines = [json.dumps(text if i % 2 else {"id": i, "puzzle": text}) for i, text in enumerate(texts)]
    (gzip.open if name.endswith(".gz") else open)(tmp_path / name, "wt").write("\n".join(lines) + "\n")
    assert solved(run, f"puzzles={tmp_path / name}", f"out={tmp_path / out}") == 1
    for row, expected in zip(rows_of(tmp_path / out), rows_of(answers), strict=True):
        for key in ("puzzle", "answer", "verdict", "message"):
            assert (row[key] or "") == expected[key]


def test_damaged_rows_are_distinguished_from_valid_ones(run, tmp_path):
    good = [text_of(puzzle) for puzzle in puzzles()[:3]]
    files = {
        "t.csv": ["puzzle,rating", f"{good[0]},1", good[1], f"{good[2]},3"],
        "j.jsonl": [json.dumps(good[0]), "{", json.dumps(good[2])],
        "k.jsonl": [json.dumps(good[0]), '{"grid": "1"}', json.dumps(good[2])],
    }
    reasons = ["the line has 1 fields, the header 2", "not valid JSON", "neither a string nor an object"]
    for (name, lines), reason in zip(files.items(), reasons, strict=True):
        (tmp_path / name).write_text("\n".join(lines))
        assert solved(run, f"puzzles={tmp_path / name}", f"out={tmp_path / name}.out.jsonl") == 1
        rows = rows_of(tmp_path / f"{name}.out.jsonl")
        assert [row["verdict"] == "invalid" for row in rows] == [False, True, False]
        assert reason in rows[1]["message"]


def test_a_pipe_receives_only_json_lines(run, answers):
    texts = [row["puzzle"] for row in rows_of(answers)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "solve.py"), f"checkpoint={run}", "puzzles=-", "out=-", "compile=false"],
        input="\n".join(texts),
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["answer"] or "" for row in rows] == [row["answer"] for row in rows_of(answers)]
    assert "32 puzzles: " in done.stderr
    assert "2 invalid" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------ interrupted, and resumed


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_an_interrupted_run_resumes_to_the_same_file(suffix, run, answers, tmp_path):
    source, out = f"puzzles={answers.parent / 'list.txt'}", tmp_path / f"out{suffix}"
    assert solved(run, source, f"out={out}") == 1
    whole = out.read_bytes()
    for cut in (0, 20, len(whole) // 2, len(whole) - 1, len(whole)):
        out.write_bytes(whole[:cut])
        assert solved(run, source, f"out={out}", "resume=true") == 1  # also if the invalid lines came first
        assert out.read_bytes() == whole, cut


def test_resuming_a_finished_file_says_that_nothing_is_left(run, answers, capfd):
    whole = answers.read_bytes()
    source = answers.parent / "list.txt"
    assert solved(run, f"puzzles={source}", f"out={answers}", "resume=true") == 1  # as the first time
    said = capfd.readouterr().err
    assert f"nothing is left to do: {answers} already has a row for each puzzle of {source}" in said
    assert "a second" not in said
    assert answers.read_bytes() == whole


def test_existing_answers_are_not_replaced_and_must_match_the_puzzles(run, answers, tmp_path):
    source, other = answers.parent / "list.txt", tmp_path / "other.txt"
    with pytest.raises(UserError, match="resume=true continues after its last row"):
        solved(run, f"puzzles={source}", f"out={answers}")
    other.write_text("\n".join(reversed(LINES)))
    with pytest.raises(UserError, match="does not belong to the puzzles"):
        solved(run, f"puzzles={other}", f"out={answers}", "resume=true")
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"notes.csv: was not written by solve.py"):
        solved(run, f"puzzles={source}", f"out={tmp_path / 'notes.csv'}", "resume=true")
    assert (tmp_path / "notes.csv").read_text() == "a,b\n1,2\n"


# ------------------------------------------------------------------------------ the stop rule


def test_a_saved_stop_rule_is_used_and_a_stale_one_is_not(run, answers, tmp_path, capsys):
    state = randomised(sizes=SIZES).state_dict()
    rule = Calibration(
        threshold=None,
        patience=1,
        num_steps=STEPS,
        forward_dtype="float32",
        weights_sha256=weights_sha256(state),
        source="of this test",
        rows=600,
        rows_left_out=0,
        solved_by_all_steps=1,
        lost=0,
        gained=0,
        mean_steps=2.0,
    )
    path = run / "halting_step_10.json"
    source = f"puzzles={answers.parent / 'list.txt'}"
    try:
        path.write_text(rule.model_dump_json())
        assert solved(run, source, f"out={tmp_path / 'fast.csv'}") == 1
        assert "unchanged for 1 step" in capsys.readouterr().err
        steps = [row["steps"] for row in rows_of(tmp_path / "fast.csv") if row["steps"]]
        stood = []
        for puzzle in puzzles():
            said = [step.answer[0].tolist() for step in Solver(randomised(sizes=SIZES)).refine(puzzle[None])]
            stood.append(next((i + 1 for i in range(1, STEPS) if said[i] == said[i - 1]), STEPS))
        assert [int(number) for number in steps] == stood
        path.write_text(rule.model_copy(update={"weights_sha256": "0" * 64}).model_dump_json())
        assert solved(run, source, f"out={tmp_path / 'slow.csv'}") == 1
        assert "is not used, because it was chosen for other weights" in capsys.readouterr().err
        assert {row["steps"] for row in rows_of(tmp_path / "slow.csv")} == {str(STEPS), ""}
    finally:
        path.unlink()


def test_a_probability_stops_each_puzzle_at_its_first_sure_step(run, answers, tmp_path):
    model, questions = Solver(randomised(sizes=SIZES)), puzzles()
    q_halt = np.concatenate(
        [[[step.q_halt.item() for step in model.refine(puzzle[None])]] for puzzle in questions]
    )
    threshold = float(np.quantile(q_halt, 0.6))
    over = q_halt > threshold
    expected = np.where(over.any(1), over.argmax(1) + 1, STEPS)
    assert len(set(expected)) > 1
    source, probability = f"puzzles={answers.parent / 'list.txt'}", 1 / (1 + math.exp(-threshold))
    assert solved(run, source, f"out={tmp_path / 'sure.csv'}", f"halt={probability!r}") == 1
    steps = [int(row["steps"]) for row in rows_of(tmp_path / "sure.csv") if row["steps"]]
    assert steps == expected.tolist()


# ------------------------------------------------------------------------------ verdicts, and memory


def streamed(lines, write, capacity: int = 8, strategy: str = "plain"):
    setting = Setting([Solver(ScriptedHead())], SUDOKU, [], capacity, rule=OWN_RULE)
    built, _ = build_strategy(Choice(strategy, 9, halt="auto"), setting)
    return solve_stream(built, family_of(SUDOKU), lines, write, chunk_size=capacity)


@pytest.mark.parametrize("strategy", ["plain", "symmetry", "guess", "ladder"])
def test_verdicts_follow_the_rules(strategy):
    written: list[dict] = []
    lines = [PuzzleLine(i, text_of(question)) for i, question in enumerate(QUESTIONS)]
    summary = streamed(lines, written.extend, strategy=strategy)
    for row, question in zip(written, QUESTIONS, strict=True):
        values = np.array([SYMBOLS.index(symbol) - 1 for symbol in row["answer"]])
        is_right = bool(is_solution(values, BOX))
        assert row["verdict"] == ("solved" if is_right else "not solved")
        assert is_right == (row["answer"] == text_of(solution(tuple(question.tolist()))))
        assert is_right == (row["message"] is None)
    verdicts = [row["verdict"] for row in written]
    assert summary.verdicts == {verdict: verdicts.count(verdict) for verdict in set(verdicts)}
    assert verdicts.count("solved") > 20
    if strategy == "plain":
        assert verdicts.count("not solved") > 0
        assert summary.steps == sum(row["steps"] for row in written)


@pytest.mark.parametrize("valid_every", [1, 3, 10**9], ids=["all valid", "some valid", "none valid"])
def test_memory_does_not_grow_with_the_number_of_puzzles(valid_every):
    """Only a bounded part of an endless stream is read before it is written."""
    text, ahead, count = text_of(QUESTIONS[0]), [], {"read": 0, "written": 0}

    def lines():
        for number in range(3000):
            count["read"] += 1
            yield PuzzleLine(number, text if number % valid_every == 1 % valid_every else "?")

    def write(rows: list[dict]) -> None:
        count["written"] += len(rows)
        ahead.append(count["read"] - count["written"])

    streamed(lines(), write, capacity=4)
    assert count == {"read": 3000, "written": 3000}
    assert max(ahead) <= 8 * 4 * valid_every + 16 if valid_every < 10 else max(ahead) <= 64


# ------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["puzzles=a.txt"], "out= is missing: name a file for the answers to puzzles=a.txt"),
        (["out=a.csv"], "puzzles= is missing: name the file of puzzles that out=a.csv answers"),
        (["puzzles=a.doc", "out=b.csv"], "must end in .txt, .csv, .tsv, .jsonl, or be -"),
        (["puzzles=a.txt", "out=b.txt"], "must end in .csv, .jsonl, or be -"),
        (["puzzles=a.csv", "out=a.csv"], "out= would replace the puzzles"),
        (["puzzles=a.csv", "out=b.csv", "puzzle=12"], "puzzle= belongs to one puzzle"),
        (["puzzles=a.csv", "out=b.csv", "gif=x.gif"], "gif= belongs to one puzzle"),
        (["halt=auto"], "halt= belongs to puzzles=FILE out=FILE"),
        (["puzzles=a.csv", "out=b.csv", "symmetries=4"], "symmetries= belongs to strategy=symmetry"),
        (["puzzles=a.csv", "out=b.csv", "chains=4"], "chains= belongs to strategy=guess"),
        (["puzzles=a.csv", "out=b.csv", "strategy=guess", "halt=False"], "halting rule leaves unsolved"),
        (["puzzles=-", "out=b.csv", "resume=true"], "resume= needs files"),
        (["puzzles=no/such.txt", "out=b.csv"], "no/such.txt: does not exist"),
        (["puzzles=a.csv", "out=b.csv", "halt=often"], "halt"),
    ],
)
def test_incompatible_arguments_are_rejected(arguments, message, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        solved(run, *arguments) if "puzzles=" in arguments[0] else solve.main(
            [f"checkpoint={run}", *arguments]
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["puzzles=no.txt", "out=b.csv"], "error: puzzles=no.txt: does not exist\n"),
        (["puzzles=a.txt", "out=a.csv"], "error: out=a.csv: already exists: resume=true continues"),
    ],
)
def test_missing_and_existing_files_are_reported_before_torch_is_imported(arguments, message, tmp_path):
    (tmp_path / "a.txt").write_text("1234\n")
    (tmp_path / "a.csv").touch()
    (tmp_path / "torch.py").write_text("raise AssertionError('imported')\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "solve.py"), "checkpoint=x", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)


def test_an_unsolved_puzzle_that_contradicts_itself_is_said_to(run, tmp_path):
    (tmp_path / "a.txt").write_text("11" + "." * 14 + "\n")
    assert solved(run, f"puzzles={tmp_path / 'a.txt'}", f"out={tmp_path / 'a.csv'}") == 0
    (row,) = rows_of(tmp_path / "a.csv")
    assert row["verdict"] == "not solved"
    assert row["message"].startswith("the puzzle contradicts itself; ")
