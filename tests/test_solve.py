"""`solve.py`: one puzzle, step by step, from text or from the test data, with a verdict and readable errors."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trained_folders import TINY_ARCH, randomised, write_run

import solve
from config.solve_schema import SolveConfig, read_arguments
from dataset import arc, maze
from dataset.format import IGNORE_LABEL_ID, SplitWriter, write_identifiers
from dataset.look import Look
from dataset.sudoku import BoxShape, parse_grid, to_tokens
from evaluators.families import family_of
from evaluators.inference import Step
from evaluators.show import GridPrinter, Kind, kinds, wants_colour
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
SIZES_4 = {"seq_len": 16, "vocab_size": 6, "num_puzzle_identifiers": 1}
# One solution, found by singles alone.
PUZZLE, ANSWER = "12..34....3..3.2", "1243342121344312"
RELABELLED = str.maketrans("1234", "2143")
ESCAPE = re.compile(r"\x1b\[[\d;]*m")


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "solve.py"), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"} | environment,
    )


def printed(capsys, *arguments: str) -> list[str]:
    """The lines that the command prints, run in this process."""
    capsys.readouterr()
    solve.main(["device=cpu", *arguments])
    return capsys.readouterr().out.splitlines()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A run on the one puzzle above, which it learns by heart; its test data has a relabelled one besides."""
    root = tmp_path_factory.mktemp("trained")
    rows = {"train": [(PUZZLE, ANSWER)]}
    rows["test"] = [*rows["train"], (PUZZLE.translate(RELABELLED), ANSWER.translate(RELABELLED))]
    for split, pairs in rows.items():
        lines = ["source,question,answer,rating", *(f"t,{question},{answer}," for question, answer in pairs)]
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    settings = {
        "arch": "trm",
        "data_paths": f"[{root / 'data'}]",
        "checkpoint_path": root / "run",
        "epochs": 2000,
        "eval_interval": 2000,
        "global_batch_size": 8,
        "lr": 2e-3,
        "lr_warmup_steps": 0,
        "weight_decay": 0,
        "log_interval": 100,
        "device": "cpu",
        "evaluators": "[]",
        "arch.hidden_size": 32,
        "arch.num_heads": 2,
        "arch.H_cycles": 1,
        "arch.L_cycles": 2,
        "arch.L_layers": 1,
        "arch.halt_max_steps": 4,
        "arch.puzzle_emb_ndim": 0,
        "arch.forward_dtype": "float32",
    }
    build = ["dataset/build_sudoku_dataset.py", "--source-csv", root, "--output-dir", root / "data"]
    train = ["pretrain.py", *(f"{key}={value}" for key, value in settings.items())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_DISABLED": "true", "DISABLE_COMPILE": "1"}
    for step in ([*build, "--workers", "1"], train):
        subprocess.run([sys.executable, *map(str, step)], cwd=ROOT, env=environment, check=True)
    return root / "run"


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    """A run of random weights whose data is not on this machine."""
    metadata = SIZES_4 | {"family": "sudoku", "grid_shape": [4, 4], "box_shape": [2, 2]}
    folder = tmp_path_factory.mktemp("untrained") / "run"
    return write_run(folder, randomised(sizes=SIZES_4), metadata=metadata, data_paths=["not/here"])


# ------------------------------------------------------------------------------ the command, as users call it


def test_a_learned_puzzle_of_the_test_data_is_solved_and_equal_to_the_answer(trained):
    done = command(f"checkpoint={trained}", "index=0")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"solved in \d steps?: valid, and equal to the answer", lines[-1])
    assert "says stop first at step" in lines[-2]
    assert any(line.startswith("puzzle ") and "step 1: " in line for line in lines)
    assert "1 2 | . ." in done.stdout  # the puzzle
    assert "1 2 | 4*3*" in done.stdout  # and what was filled in
    assert "\x1b" not in done.stdout
    assert max(map(len, lines[3:])) <= 80


def test_the_same_puzzle_as_text_that_looks_like_a_number_is_solved(trained, capsys):
    for text in (
        "1200340000300302",
        "12.0340000300302",
        PUZZLE,
        "12..\n34..\n..3.\n.3.2",
        "12..|34../..3.|.3.2",
    ):
        last = printed(capsys, f"checkpoint={trained}", f"puzzle={text}")[-1]
        assert re.fullmatch(r"solved in \d steps?: valid", last), text


def test_an_unsolved_puzzle_is_no_failure_of_the_command_and_shows_the_answer(trained, capsys):
    lines = printed(capsys, f"checkpoint={trained}", "index=1")
    assert lines[-1].startswith("not solved: ")
    assert "broken" in lines[-1]
    assert re.search(r"\d+ of 16 cells as in the answer", lines[-1])
    assert any("the dataset's answer" in line for line in lines)


def test_without_a_choice_seed_zero_draws_the_puzzle(trained, capsys):
    drawn = printed(capsys, f"checkpoint={trained}")
    assert drawn == printed(capsys, f"checkpoint={trained}", "seed=0")
    names = {printed(capsys, f"checkpoint={trained}", f"seed={seed}")[1] for seed in range(8)}
    assert len(names) == 2
    assert all(re.fullmatch(r"test puzzle [01] of .*data \(0 to 1\)", name) for name in names)


def test_other_data_is_taken_and_numbers_go_on_from_one_dataset_to_the_next(trained, tmp_path, capsys):
    data = trained.parent / "data"
    other = tmp_path / "other"
    tokens = to_tokens(np.stack([parse_grid(text, BoxShape(2, 2)) for text in (PUZZLE, ANSWER)]))
    for split in ("train", "test"):
        with SplitWriter(other / split, seq_len=16, vocab_size=6, extra={"family": "sudoku"}) as writer:
            writer.add_group(tokens[:1], tokens[1:], np.zeros(1, np.int32))
            writer.close(1)
    write_identifiers(other, ["<blank>"])
    lines = printed(capsys, f"checkpoint={trained}", f"data_paths_test=[{data},{other}]", "index=2")
    assert lines[1].endswith(f"{data}, {other} (0 to 2)")
    assert lines[-1].endswith("equal to the answer")


def test_a_user_error_is_one_message_and_exit_status_two(untrained):
    done = command(f"checkpoint={untrained}", "puzle=12")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "puzle: unknown key; nearest valid keys: puzzle" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(untrained):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "solve.py"), "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert errors == b""


# ------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    "text",
    ["12.3000", "000123", "1e10", "1_000", "true", "null", "[1,2]", "0x1F", "a=b", " 1 2 ", "1,2", "~"],
)
def test_a_puzzle_stays_the_text_that_it_is(text):
    assert read_arguments(["checkpoint=x", f"puzzle={text}"]).puzzle == text


def test_quotes_that_survive_the_shell_and_plus_signs_are_no_part_of_the_value():
    config = read_arguments(["+checkpoint='x y'", '++puzzle="12.3"', "steps=5"])
    assert (config.checkpoint, config.puzzle, config.steps) == ("x y", "12.3", 5)


@pytest.mark.parametrize("text", ["[a,b]", "[ 'a' , \"b\" ]", "a,b"])
def test_folders_are_a_list(text):
    assert read_arguments(["checkpoint=x", f"data_paths_test={text}"]).data_paths_test == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "checkpoint: None is not valid: name the folder of a run"),
        (["checkpoint=x", "12.3"], "'12.3' is not of the form key=value; keys are checkpoint, puzzle"),
        (["checkpoint=x", "=3"], "'=3' is not of the form"),
        (["checkpoint=x", "steps=1", "steps=2"], "steps= is given twice"),
        (["checkpoint=x", "steps=0"], "steps: '0' is not valid"),
        (["checkpoint=x", "steps=many"], "steps: 'many' is not valid"),
        (["checkpoint=x", "index=-1"], "index: '-1' is not valid"),
        (
            ["checkpoint=x", "halt_max_steps=3"],
            "halt_max_steps: unknown key; nearest valid keys: data_paths_test, steps",
        ),
        (["checkpoint=x", "device=tpu"], "device: 'tpu' is not valid"),
        (["checkpoint=x", "data_paths_test=[]"], "data_paths_test: "),
        (["checkpoint=x", "puzzle=1", "index=1"], "puzzle= gives the puzzle and index= chooses one"),
        (["checkpoint=x", "puzzle=1", "seed=1"], "puzzle= gives the puzzle and seed= chooses one"),
        (["checkpoint=x", "puzzle=1", "data_paths_test=a"], "and data_paths_test= chooses one"),
        (["checkpoint=x", "index=1", "seed=1"], "index= chooses a puzzle and seed= draws one"),
        (["checkpoint=x", "seq_len=16"], "seq_len= goes with puzzle="),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_arguments(arguments)


def test_help_says_every_key(capsys):
    solve.main(["--help"])
    text = capsys.readouterr().out
    for key in SolveConfig.model_fields:
        assert re.search(rf"^{key} ", text, re.MULTILINE), key


# ------------------------------------------------------------------------------ checkpoints and data


def test_a_puzzle_as_text_needs_no_data(untrained, capsys):
    lines = printed(capsys, f"checkpoint={untrained / 'step_10'}", f"puzzle={PUZZLE}", "steps=6")
    assert lines[0].endswith("step_10: TRM on cpu, 6 steps, trained with 4")
    assert lines[1] == "your puzzle"
    assert lines[-1].startswith(("solved", "not solved"))
    assert "answer" not in lines[-1]


def test_a_published_checkpoint_without_metadata_needs_the_number_of_cells(tmp_path, capsys):
    run = write_run(tmp_path / "run", randomised(sizes=SIZES_4))
    with pytest.raises(UserError, match="seq_len="):
        printed(capsys, f"checkpoint={run}", f"puzzle={PUZZLE}")
    assert printed(capsys, f"checkpoint={run}", f"puzzle={PUZZLE}", "seq_len=16")[1] == "your puzzle"


def test_a_model_of_many_identifiers_says_that_it_gets_the_blank_one(tmp_path, capsys):
    sizes = SIZES_4 | {"num_puzzle_identifiers": 3}
    run = write_run(tmp_path / "run", randomised(sizes=sizes), metadata=sizes | {"family": "sudoku"})
    assert any(
        "gets the blank one" in line for line in printed(capsys, f"checkpoint={run}", f"puzzle={PUZZLE}")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"(?s)not/here.*data_paths_test=\[DIR\].*puzzle="),
        (["data_paths_test=[nor/here]"], "nor/here"),
        (["puzzle=12.3"], r"puzzle= has 4 cells, but this model solves 4x4 Sudoku, of 16 cells"),
    ],
)
def test_what_is_missing_is_named(untrained, arguments, message):
    with pytest.raises(UserError, match=message):
        solve.main([f"checkpoint={untrained}", *arguments])


def test_a_checkpoint_that_is_not_there_is_named():
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        solve.main(["checkpoint=nowhere", f"puzzle={PUZZLE}"])


def test_an_index_beyond_the_data_is_refused_with_the_range(trained):
    with pytest.raises(UserError, match=r"index=2: .* has 2 test puzzles, 0 to 1"):
        solve.main([f"checkpoint={trained}", "index=2"])


def test_data_of_another_size_is_refused(untrained, tmp_path):
    for split in ("train", "test"):
        with SplitWriter(tmp_path / split, seq_len=36, vocab_size=8) as writer:
            writer.add_group(np.ones((1, 36), int), np.ones((1, 36), int), np.zeros(1, np.int32))
            writer.close(1)
    with pytest.raises(UserError, match="seq_len: 16 in the weights, 36 in the data"):
        solve.main([f"checkpoint={untrained}", f"data_paths_test=[{tmp_path}]"])


# ------------------------------------------------------------------------------ a scripted model


class ScriptedSolver:
    """Says what it is told to: (answer (S,), q_halt) per step."""

    def __init__(self, steps: list[tuple[np.ndarray, float]], halts: bool = False, compares: bool = False):
        self.steps, self.halts, self.trained_steps = steps, halts, len(steps)
        self.head = SimpleNamespace(model=SimpleNamespace(rule=SimpleNamespace(compares=compares)))

    def refine(self, tokens, puzzle_identifiers, max_steps):
        for number, (answer, q_halt) in enumerate(self.steps[:max_steps], start=1):
            q = torch.tensor([q_halt])
            yield Step(number, torch.from_numpy(answer)[None].long(), torch.ones(1, len(answer)), q, q > 0)


def look_of(family: str, shape: tuple[int, int], vocab_size: int, **extra) -> Look:
    sizes = {"seq_len": shape[0] * shape[1], "vocab_size": vocab_size, "num_puzzle_identifiers": 1}
    return Look.of(solve.described({"family": family, "grid_shape": shape} | extra, sizes))


def sudoku_look(rows: int = 2, columns: int = 2) -> Look:
    box = BoxShape(rows, columns)
    return look_of("sudoku", (box.size, box.size), box.vocab_size, box_shape=[rows, columns])


def grid(text: str) -> np.ndarray:
    """Tokens of a 4x4 Sudoku."""
    return to_tokens(parse_grid(text, BoxShape(2, 2)))


def watched(look: Look, question, labels, steps, *, colour=False, width=80, **solver) -> list[str]:
    out = io.StringIO()
    printer = GridPrinter(look, out, colour=colour, width=width)
    puzzle = solve.Puzzle(question, labels, 0, "a puzzle")
    last = solve.watch(ScriptedSolver(steps, **solver), family_of(look), puzzle, len(steps), printer, [])
    return [*out.getvalue().splitlines(), last]


WRONG = "1243342121344313"  # its last cell, a given 2, is a 3
STEPS = [("1211341111311312", -3.0), (WRONG, -1.0), (ANSWER, 1.0), (ANSWER, 2.0), (ANSWER, 3.0)]


def scripted(steps=STEPS) -> list[tuple[np.ndarray, float]]:
    return [(grid(text), q) for text, q in steps]


def test_each_step_marks_what_was_filled_in_changed_and_broken():
    lines = watched(sudoku_look(), grid(PUZZLE), grid(ANSWER), scripted())
    start = lines.index(next(line for line in lines if line.startswith("puzzle")))
    expected = """
        puzzle        step 1: 9 changed    step 2: 7 changed    step 3: 1 changed
        1 2 | . .     halting 4.7%         halting 26.9%        halting 73.1%, says stop
        3 4 | . .     1 2 | 1*1*           1 2 | 4*3*           1 2 | 4'3'
        ----+-----    3 4 | 1*1*           3 4 | 2*1'           3 4 | 2'1'
        . . | 3 .     ----+-----           ----+-----           ----+-----
        . 3 | . 2     1*1*| 3 1*           2*1'| 3 4*           2'1'| 3 4'
                      1*3 | 1*2            4*3 | 1'3!           4'3 | 1'2*
    """
    assert lines[start : start + 7] == [line[8:] for line in expected.splitlines()[1:-1]]


def test_steps_that_change_nothing_take_one_line():
    lines = watched(sudoku_look(), grid(PUZZLE), grid(ANSWER), scripted())
    assert "steps 4 to 5: no change, halting 88.1% to 95.3%" in lines
    assert sum("step 3: 1 changed" in line for line in lines) == 1


def test_the_first_step_that_says_stop_is_reported_with_its_probability_and_rule():
    lines = watched(sudoku_look(), grid(PUZZLE), grid(ANSWER), scripted())
    assert lines[-2] == "halting rule (q_halt > 0): says stop first at step 3, 73.1%"
    lines = watched(sudoku_look(), grid(PUZZLE), None, scripted(STEPS[:2]), compares=True)
    assert lines[-2] == "halting rule (q_halt > q_continue): never says stop; most likely at step 2, 26.9%"


def test_a_solution_counts_from_the_step_that_kept_it():
    assert watched(sudoku_look(), grid(PUZZLE), grid(ANSWER), scripted())[-1] == (
        "solved in 3 steps: valid, and equal to the answer"
    )
    back_and_forth = [STEPS[2], STEPS[1], STEPS[2]]
    assert (
        watched(sudoku_look(), grid(PUZZLE), None, scripted(back_and_forth))[-1] == "solved in 3 steps: valid"
    )
    assert watched(sudoku_look(), grid(PUZZLE), None, scripted(STEPS[2:]))[-1] == "solved in 1 step: valid"


def test_a_solution_that_was_lost_is_said():
    last = watched(sudoku_look(), grid(PUZZLE), grid(ANSWER), scripted([STEPS[1], STEPS[2], STEPS[1]]))[-1]
    assert last == (
        "not solved: 1 row, 1 column, 1 box broken; 1 given cell changed; 15 of 16 cells as in the answer "
        "(it was solved at step 2, and lost again)"
    )


def test_a_model_that_halts_in_evaluation_ends_at_its_stop():
    lines = watched(sudoku_look(), grid(PUZZLE), grid(ANSWER), scripted(), halts=True)
    assert not any("steps 4" in line or "step 4" in line for line in lines)
    assert lines[-2].endswith("this model ends there (arch.act_inference)")


@pytest.mark.parametrize(
    ("puzzle", "warning"),
    [
        (
            "11" + 14 * ".",
            "contradicts itself, so it has no solution: 1 occurs 2 times in row 1; 1 occurs 2 times",
        ),
        ("123...4.........", "the puzzle has no solution"),
        (16 * ".", "the puzzle has several solutions"),
    ],
)
def test_a_puzzle_without_exactly_one_solution_is_said_before_it_is_tried(puzzle, warning):
    lines = watched(sudoku_look(), grid(puzzle), None, scripted())
    place = next(i for i, line in enumerate(lines) if line.startswith("warning: "))
    assert warning in lines[place]
    assert place < next(i for i, line in enumerate(lines) if "step 1" in line)


def test_a_proper_puzzle_gives_no_warning():
    assert not any("warning" in line for line in watched(sudoku_look(), grid(PUZZLE), None, scripted()))


def test_another_solution_than_the_datasets_is_valid_all_the_same():
    other = ANSWER.translate(RELABELLED)
    last = watched(sudoku_look(), grid(16 * "."), grid(ANSWER), scripted([(other, 1.0)]))[-1]
    assert last == "solved in 1 step: valid, but not the one in the dataset"


def test_blank_and_padding_answers_are_wrong_answers():
    answer = grid(ANSWER)
    answer[2:4] = [0, 1]
    lines = watched(sudoku_look(), grid(PUZZLE), None, [(answer, -1.0)])
    assert lines[-1] == "not solved: 1 row, 2 columns, 1 box broken"
    assert any(line.endswith("1 2 | ?*.") for line in lines)


# ------------------------------------------------------------------------------ drawing


def random_steps(look: Look, num_steps: int = 5) -> list[tuple[np.ndarray, float]]:
    rng = np.random.default_rng(0)
    cells = look.shape[0] * look.shape[1]
    return [(rng.integers(2, len(look.symbols), cells), 0.0) for _ in range(num_steps)]


LOOKS = {
    "sudoku4": sudoku_look(),
    "sudoku6": sudoku_look(2, 3),
    "sudoku9": sudoku_look(3, 3),
    "sudoku16": sudoku_look(4, 4),
    "maze30": look_of("maze", (30, 30), maze.VOCAB_SIZE),
    "arc": look_of("arc", (30, 30), arc.VOCAB_SIZE),
    "unknown": look_of("other", (6, 6), 9),
}


@pytest.mark.parametrize("name", LOOKS)
def test_every_family_fits_eighty_columns_with_and_without_colours(name):
    look = LOOKS[name]
    question = np.full(look.shape[0] * look.shape[1], 2)
    plain, coloured = (
        watched(look, question, None, random_steps(look), colour=colour) for colour in (False, True)
    )
    drawn = slice(2, -2)  # not the sentences
    assert max(map(len, plain[drawn])) <= 80
    assert max(len(ESCAPE.sub("", line)) for line in coloured[drawn]) <= 80
    assert not any("\x1b" in line for line in plain)
    assert any("\x1b" in line for line in coloured)
    assert len(plain) == len(coloured)
    # Side by side where there is room: five steps and the puzzle in fewer rows of grids than six.
    heads = [line for line in plain if re.match(r"(puzzle|step \d)", line)]
    assert len(heads) < 6 or name == "arc"


def test_colours_tell_given_filled_changed_and_broken_cells_apart():
    look = sudoku_look()
    question, previous, answer = grid(PUZZLE), grid(STEPS[0][0]), grid(WRONG)
    kind = kinds(family_of(look), question, previous, answer)
    out = io.StringIO()
    printer = GridPrinter(look, out, colour=True, width=80)
    printer.show(["x"], answer, kind)
    printer.flush()
    last_row = out.getvalue().splitlines()[5]
    styles = re.findall(r"\x1b\[([\d;]+)m(.)\x1b\[0m", last_row)
    assert [symbol for _, symbol in styles] == list("4313")
    changed, given, filled, broken = (style for style, _ in styles)
    assert len({changed, given, filled, broken}) == 4
    assert kind[-4:].tolist() == [Kind.CHANGED, Kind.PLAIN, Kind.FILLED, Kind.BROKEN]


@pytest.mark.parametrize(
    ("terminal", "environment", "expected"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_whose_users_want_them(monkeypatch, terminal, environment, expected):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert wants_colour(SimpleNamespace(isatty=lambda: terminal)) is expected


# ------------------------------------------------------------------------------ Sudoku as text


def test_letters_of_large_grids_are_read_in_either_case():
    family = family_of(sudoku_look(4, 4))
    text = "1e10aA" + "." * 250
    assert family.read(text)[:6].tolist() == [2, 15, 2, 1, 11, 11]


def test_a_drawn_grid_is_read_as_its_cells():
    drawn = "1 2 | . .\n3 4 | . .\n----+-----\n. . | 3 .\r\n. 3 | . 2\n"
    assert np.array_equal(family_of(sudoku_look()).read(drawn), grid(PUZZLE))
    assert np.array_equal(family_of(sudoku_look()).read(r"12..\n34..\n..3.\n.3.2"), grid(PUZZLE))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12..34.5..3..3.2", "'5' at character 8; allowed are 1234, . or 0"),
        ("12..\n34.x\n..3.\n.3.2", "'x' at line 2, character 4"),
        ("12..34....3..3.", "has 15 cells, but this model solves 4x4 Sudoku, of 16 cells"),
        ("1", "has 1 cell,"),
        ("", "has 0 cells"),
        ("12..34....3..3.²", "'²' at character 16"),
    ],
)
def test_a_sudoku_that_cannot_be_read_names_the_place(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        family_of(sudoku_look()).read(text)


# ------------------------------------------------------------------------------ mazes

MAZE = ["S   #", "# # #", "  # G", " ##  ", "     "]
MAZE_LOOK = look_of("maze", (5, 5), maze.VOCAB_SIZE)
SHORTEST = ["Sooo#", "# #o#", "  #oG", " ##  ", "     "]
LONGER = ["So  #", "#o# #", "oo# G", "o##oo", "oooo "]


def mazes(*rows: list[str]) -> np.ndarray:
    return np.stack([maze.encode("".join(lines)) for lines in rows])


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(MAZE),
        "/".join(MAZE),
        "".join(MAZE),
        "\n" + "\n".join(MAZE).replace(" ", ".") + "\n",
        r"\n".join(MAZE),
    ],
)
def test_a_maze_is_read_from_rows_or_from_one_line(text):
    assert np.array_equal(family_of(MAZE_LOOK).read(text), mazes(MAZE)[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/".join(SHORTEST), "'o' at character 2; allowed are # (wall), space or . (free), S, G"),
        ("\n".join(MAZE).replace("G", "X"), "'X' at line 3, character 5"),
        ("/".join(MAZE[:4]), "has 4 rows, but this model solves mazes of 5 rows of 5"),
        ("S#G", "has one row of 3 cells, but this model solves mazes of 5 rows of 5"),
        (
            "/".join([*MAZE[:3], MAZE[3].rstrip(), MAZE[4]]),
            "has 3 cells in row 4 instead of 5 (write . for free cells",
        ),
        ("/".join(MAZE).replace("S", "."), "has 0 cells with S, but a maze has one"),
        ("/".join(MAZE).replace("#", "G"), "cells with G, but a maze has one"),
    ],
)
def test_a_maze_that_cannot_be_read_names_the_place(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        family_of(MAZE_LOOK).read(text)


def maze_verdict(answer: list[str], labels: list[str] | None = None) -> str:
    question, ours = mazes(MAZE, answer)
    return watched(MAZE_LOOK, question, None if labels is None else mazes(labels)[0], [(ours, 1.0)])[-1]


def test_a_maze_is_solved_by_a_shortest_path_only():
    assert maze_verdict(SHORTEST) == "solved in 1 step: valid, a shortest path of 6 steps"
    assert maze_verdict(SHORTEST, SHORTEST).endswith("of 6 steps, and equal to the answer")
    assert maze_verdict(LONGER) == "not solved: a path of 12 steps, but 6 are enough"
    assert maze_verdict(MAZE) == "not solved: no path is marked"
    gap = [SHORTEST[0].replace("oo", " o"), *SHORTEST[1:]]
    assert maze_verdict(gap, SHORTEST) == (
        "not solved: the marked cells (4) are not one path from S to G; 24 of 25 cells as in the answer"
    )
    moved = ["Soooo", *SHORTEST[1:]]
    assert maze_verdict(moved).startswith("not solved: 1 cell of the maze changed; ")


def test_a_maze_without_a_way_is_said():
    closed = [line.replace("G", "#") for line in MAZE[:4]] + ["   #G"]
    closed[3] = " ## #"
    lines = watched(MAZE_LOOK, mazes(closed)[0], None, [(mazes(closed)[0], 0.0)])
    assert any("G cannot be reached from S" in line for line in lines)


def test_a_maze_shows_new_lost_and_broken_cells():
    question, first, second = mazes(MAZE, LONGER, ["Sooo ", *SHORTEST[1:]])
    lines = watched(MAZE_LOOK, question, None, [(first, -1.0), (second, -1.0)])
    assert any("SoOO!" in line for line in lines)
    assert any("#-# " in line for line in lines) or any("#-#O#" in line for line in lines)


# ------------------------------------------------------------------------------ ARC and unknown families


def test_arc_puzzles_come_from_the_dataset_only():
    with pytest.raises(UserError, match="knows by puzzle identifier"):
        family_of(LOOKS["arc"]).read("123")
    with pytest.raises(UserError, match="names no family"):
        family_of(LOOKS["unknown"]).read("123")


def test_of_an_arc_answer_only_the_grid_counts():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 10, (2, 3))
    encoded = arc.encode(colours.astype(np.uint8)).astype(np.int64)
    labels = np.where(encoded == arc.PAD, IGNORE_LABEL_ID, encoded)
    noise = np.where(encoded == arc.PAD, rng.integers(2, 12, encoded.shape), encoded)
    lines = watched(LOOKS["arc"], encoded, labels, [(noise, 1.0), (encoded, 1.0)])
    assert lines[-1] == "solved in 1 step: equal to the answer"
    assert "step 2: no change, halting 73.1%" in lines
    wrong = encoded.copy()
    wrong[0] = (wrong[0] - 1) % 10 + 2
    assert (
        watched(LOOKS["arc"], encoded, labels, [(wrong, 1.0)])[-1]
        == "not solved: 5 of 6 cells as in the answer"
    )
    small = arc.encode(colours[:, :2].astype(np.uint8)).astype(np.int64)
    assert (
        watched(LOOKS["arc"], encoded, labels, [(small, 1.0)])[-1]
        == "not solved: the grid is 2x2, the answer 2x3"
    )
    nothing = watched(LOOKS["arc"], encoded, labels, [(np.zeros_like(encoded), 1.0)])
    assert nothing[-1] == "not solved: the grid is empty, the answer 2x3"
    assert any("no grid" in line for line in nothing)


def test_an_unknown_family_is_judged_by_the_answer_alone():
    look = LOOKS["unknown"]
    question, answer = np.arange(36) % 9, np.arange(36) % 7
    ignoring = np.where(np.arange(36) < 30, answer, IGNORE_LABEL_ID)
    other = np.where(np.arange(36) < 30, answer, 8)
    assert watched(look, question, ignoring, [(other, 1.0)])[-1] == "solved in 1 step: equal to the answer"
    assert (
        watched(look, question, answer, [(other, 1.0)])[-1] == "not solved: 30 of 36 cells as in the answer"
    )
    last = watched(look, question, None, [(other, 1.0)])[-1]
    assert last == "done after 1 step: there are no rules and no answer to judge it by"


def test_every_architecture_is_watched_through_the_command(tmp_path, capsys):
    arch = {key: value for key, value in TINY_ARCH.items() if key != "puzzle_emb_len"}
    for name in ("hrm", "transformers_baseline"):
        settings = arch | {"name": name, "H_layers": 1, "puzzle_emb_len": 0}
        run = write_run(tmp_path / name, randomised(settings, SIZES_4), settings, metadata=SIZES_4)
        lines = printed(capsys, f"checkpoint={run}", f"puzzle={PUZZLE}", "steps=3")
        assert lines[-2].startswith("halting rule (q_halt > q_continue)")
