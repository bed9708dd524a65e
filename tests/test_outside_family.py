"""Every command works with a family outside the repository, and errors name the mistakes in one."""

from __future__ import annotations

import json
import re
import sys
from functools import cached_property

import numpy as np
import pytest
import torch
from outside_family import Latin
from training_runs import metrics, tiny, train

import solve
from app import open_session
from config.evaluate_schema import STRATEGIES, EvaluateConfig
from config.report_schema import MemorisationConfig, ReportConfig
from config.solve_schema import AppConfig
from dataset import report
from dataset.examples import write_examples
from dataset.families import check, family_class
from dataset.families.symmetry import FiniteSymmetries
from dataset.format import SPLITS
from evaluate import run_evaluation
from evaluators.base import Evaluator, build_evaluators
from evaluators.reports import memorisation_report, run_figures
from puzzle_dataset import PuzzleDataset
from trained_run import open_trained
from training_run import build
from utils.distributed import World
from utils.errors import UserError
from utils.strict_model import parse

OPTIONS = {
    "symmetry": {"symmetries": 2},
    "noise": {"chains": 2, "sigma": 0.2},
    "ladder": {"rungs": ["steps", "more_steps", "symmetry"], "more_steps": 4, "symmetries": 2},
}


def write(folder, family: str = Latin.name):
    """24 train and 8 test puzzles, whose dataset.json names `family`."""
    puzzles = Latin.from_sizes(seq_len=16, vocab_size=6)
    write_examples(folder, puzzles, {"train": 24, "test": 8}, seed=0, extra={"family": family})
    return folder


# ------------------------------------------------------------------------------ what works


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("outside") / "data")


@pytest.fixture(scope="module")
def run(data):
    values = {
        "evaluators": None,
        "augment": "online",
        "reveal_prob": 0.5,
        "best_metric": "auto",
        "log_interval": 1,
    }
    assert train(data, data.parent / "run", epochs=4, eval_interval=2, **values) == 0
    return data.parent / "run"


def test_a_training_has_the_metrics_of_its_own_evaluator_and_of_its_rules(run):
    last = metrics(run)[-1]
    assert {"latin/lines", "test/solved", "test/exact_accuracy"} <= last.keys()
    assert json.loads((run / "best.json").read_text())["metric"] == "test/solved"
    assert json.loads((run / "metadata.json").read_text())["family"] == Latin.name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_with_the_checker_if_it_takes_one(strategy, run):
    values = {
        "checkpoint": str(run),
        "device": "cpu",
        "compile": False,
        "strategy": strategy,
    }
    values |= {"checker": True} if "checker" in STRATEGIES[strategy].options else {}
    values |= {"out": str(run / strategy), **OPTIONS.get(strategy, {})}
    told = run_evaluation(parse(EvaluateConfig, values), World())
    suffix = "_with_checker" if strategy == "ladder" else ""
    assert f"latin/lines{suffix}" in told["metrics"]
    assert told["solved_by"] == "rules"
    assert (run / strategy / f"accuracy_against_compute_{strategy}.png").exists()


def test_the_family_keeps_its_promises(data, capsys):
    assert check.main([Latin.name]) == 0
    assert check.main([Latin.name, str(data)]) == 0
    assert len(re.findall("evaluator +kept", capsys.readouterr().out)) == 3  # of itself, and of both splits


def test_the_dataset_report_finds_leakage_by_its_keys(data, capsys):
    assert report.main([str(data)]) == 0
    assert "inputs up to symmetry" in capsys.readouterr().out


def test_a_puzzle_is_solved_and_drawn(run, tmp_path, capsys):
    pictures = [f"{kind}={tmp_path / 'drawn'}.{kind}" for kind in ("png", "gif")]
    solve.main([f"checkpoint={run}", "puzzle=1234 .... 3... ....", "device=cpu", *pictures])
    assert "not solved" in capsys.readouterr().out
    assert [(tmp_path / f"drawn.{kind}").read_bytes()[:3] for kind in ("png", "gif")] == [b"\x89PN", b"GIF"]


def test_the_page_reads_samples_and_votes(run):
    session, _ = open_session(parse(AppConfig, {"checkpoint": str(run), "device": "cpu"}))
    solved = session.solve(session.sample(0), 2, voting=True)
    assert session.show(solved, 2).size[0] > 0
    with pytest.raises(UserError, match="the puzzle has '5' at character 1"):
        session.solve("5", 2)


def test_plots_and_the_memorisation_report_are_made(run, tmp_path, capsys):
    run_figures.draw_run(ReportConfig(checkpoint=str(run), device="cpu", out=str(tmp_path)))
    assert (tmp_path / "accuracy_by_step.png").exists()
    memorisation_report.report(MemorisationConfig(checkpoint=str(run), device="cpu", out=str(tmp_path)))
    assert "augment=online" in capsys.readouterr().out


def test_a_folder_that_names_no_family_is_of_the_one_named_for_the_training(tmp_path, capsys):
    folder = write(tmp_path / "data")
    for split in SPLITS:
        path = folder / split / "dataset.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "family"}))
    settings = {"checkpoint": str(tmp_path / "run"), "device": "cpu"}
    train(folder, tmp_path / "run", epochs=2, evaluators=None, family=Latin.name)
    told = run_evaluation(parse(EvaluateConfig, settings | {"compile": False}), World())
    assert "latin/lines" in told["metrics"]
    assert told["solved_by"] == "rules"
    (table, *_), _ = run_figures.solve_test_puzzles(
        open_trained(settings["checkpoint"]), ReportConfig(**settings)
    )
    assert "solved" in table[0]
    memorisation_report.report(MemorisationConfig(**settings))
    solve.main([f"{key}={value}" for key, value in settings.items()])
    said = capsys.readouterr().out
    assert "no symmetry of these puzzles is known" not in said
    assert "note: " not in said
    (notice,) = PuzzleDataset([str(folder)], "test", global_batch_size=4).notices  # without a run
    assert notice.startswith(f"{folder}: of no known family")


# ------------------------------------------------------------------------------ mistakes


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Write modules that can be imported, and forget them afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write_module(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        written.append(name)
        return name

    yield write_module
    for name in written:
        sys.modules.pop(name, None)


MODULES = [
    ("x = 1 +", r"cannot be imported \(SyntaxError: .*broken_family.py, line 1\)"),
    ("import nowhere_at_all", r"cannot be imported \(No module named 'nowhere_at_all'\)"),
    ("x = {}['key']", r"cannot be imported \(KeyError: 'key'; .*broken_family.py, line 1\)"),
    ("Own = 3", "broken_family has no class Own derived from Family"),
    ("class Own: pass", "broken_family has no class Own derived from Family"),
    ("completes = 1", "its completes is 1, but must be True or False"),
    ("characters = {'ab': 1}", "its characters is {'ab': 1}, but must be a mapping of characters to tokens"),
    ("evaluator = 'rules'", "its evaluator is 'rules', but must be module@Class, or None"),
    ("noise_pick = 'best'", "its noise_pick is 'best', but must be one of majority, q_halt, first_stop"),
    (
        "sizes_to_check = ({'seq_len': 4},)",
        "its sizes_to_check is .* must be a list of mappings with seq_len",
    ),
    ("name = None", "its name is None: write name = 'broken_family@Own' into its class"),
    ("name = 'own'", "its name is 'own': write name = 'broken_family@Own' into its class"),
    ("several_answers = True", "its puzzles have several right answers, which needs check"),
]


@pytest.mark.parametrize(("source", "message"), MODULES)
def test_a_module_that_holds_no_usable_family_is_refused_wherever_it_is_named(
    source, message, outside, tmp_path, capsys
):
    if message.startswith("its "):
        source = f"from dataset.families.base import Family\n\n\nclass Own(Family):\n    {source}\n"
    name = f"{outside('broken_family', source)}@Own"
    folder = write(tmp_path / "data", name)
    with pytest.raises(UserError, match=rf"{folder}: dataset.json names the family '{name}', .*{message}"):
        train(folder, tmp_path / "run", epochs=2)
    with pytest.raises(UserError, match=rf"family={name} names the family '{name}', .*{message}"):
        train(folder, tmp_path / "run", epochs=2, family=name)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit, match="2"):
        check.main([name])
    assert "the argument names the family" in capsys.readouterr().err


EVALUATORS = [
    ("rules@Rules", None),
    ("own_evaluator@Own", None),
    ("nowhere@Own", "there is no module evaluators.nowhere; .* a module nowhere of your own must be in the"),
    ("own_evaluator@Other", "module own_evaluator has no class Other"),
    ("rules@Laws", "module evaluators.rules has no class Laws"),
    ("own_evaluator@NoEvaluator", "NoEvaluator must derive from evaluators.base.Evaluator"),
]


@pytest.mark.parametrize(("evaluator", "message"), EVALUATORS)
def test_the_evaluator_of_a_family_is_one_of_ours_or_of_a_module_of_its_own(
    evaluator, message, outside, tmp_path, capsys
):
    outside(
        "own_evaluator",
        "from evaluators.base import Evaluator\n\n\n"
        "class Own(Evaluator):\n    pass\n\n\nclass NoEvaluator:\n    pass\n",
    )
    source = f"class Own(Latin):\n    name = 'named@Own'\n    evaluator = '{evaluator}'\n"
    source = f"from outside_family import Latin\n\n\n{source}"
    family = f"{outside('named', source)}@Own"
    folder = write(tmp_path / "data", family)
    data = PuzzleDataset([str(folder)], "test", global_batch_size=4)
    if message is None:
        (built,) = build_evaluators(None, [str(folder)], data.metadata).values()
        assert isinstance(built, Evaluator)
        return
    with pytest.raises(UserError, match=f"the family {family}: evaluator='{evaluator}': .*{message}"):
        train(folder, tmp_path / "run", epochs=2, evaluators=None)
    assert not (tmp_path / "run").exists()
    if "derive" not in message:  # known only after importing it
        assert check.main([family]) == 1
        assert f"BROKEN: '{evaluator}'" in capsys.readouterr().out


def test_two_evaluators_of_one_name_are_refused(data, outside):
    outside("own_evaluator", "from evaluators.rules import Rules as Base\n\n\nclass Rules(Base):\n    pass\n")
    metadata = PuzzleDataset([str(data)], "test", global_batch_size=4).metadata
    wanted = [("rules@Rules", {}), ("own_evaluator@Rules", {})]
    with pytest.raises(ValueError, match="own_evaluator@Rules is the second one called Rules"):
        build_evaluators(wanted, [str(data)], metadata)


def test_an_error_of_an_evaluator_is_not_taken_for_wrong_options(data, outside):
    source = (
        "from evaluators.rules import Rules\n\n\nclass Own(Rules):\n    def begin(self):\n        len(3)\n"
    )
    outside("own_evaluator", source)
    metadata = PuzzleDataset([str(data)], "test", global_batch_size=4).metadata
    with pytest.raises(TypeError, match="object of type 'int' has no len"):
        build_evaluators([("own_evaluator@Own", {})], [str(data)], metadata)
    with pytest.raises(ValueError, match=r"own_evaluator@Own does not take these options \{'k': 2\}"):
        build_evaluators([("own_evaluator@Own", {"k": 2})], [str(data)], metadata)


def test_a_check_of_tensors_that_gives_no_bools_is_refused_before_training(outside, tmp_path):
    source = (
        "from outside_family import Latin\n\n\nclass Own(Latin):\n    name = 'shares@Own'\n\n"
        "    def check_tensors(self, questions, answers):\n        return (questions == answers).float().mean(1)\n"
    )
    folder = write(tmp_path / "data", f"{outside('shares', source)}@Own")
    message = r"shares@Own\.check_tensors gives torch.float32 \(2,\), but must give torch.bool \(2,\)"
    with pytest.raises(UserError, match=message):
        build(tiny(folder, tmp_path / "run"), World())


ROWS, CELLS = np.zeros((3, 16), np.uint8), np.zeros(16, np.uint8)
# Method, its wrong result, its arguments, and the error
RETURNS = [
    ("check", np.array(True), (ROWS, ROWS), r"check gives bool \(\), but must give bool \(3,\)"),
    ("check", [True] * 3, (ROWS, ROWS), r"check gives \[True, True, True\], but must give bool \(3,\)"),
    ("check", np.ones(3), (ROWS, ROWS), r"check gives float64 \(3,\), but must give bool \(3,\)"),
    ("check", None, (ROWS, ROWS), r"check gives None, but must give bool \(3,\)"),
    ("read", [1] * 16, ("",), r"read gives \[1, .*, but must give integers \(16,\) from 0 to 5"),
    ("read", np.full(16, 6), ("",), r"read gives int64 \(16,\), but must give integers \(16,\) from 0 to 5"),
    ("write", None, (CELLS,), "write gives None, but must give text"),
    ("remarks", "one", (CELLS,), "remarks gives 'one', but must give a list of texts"),
    ("broken", np.zeros(3, bool), (CELLS, CELLS), r"broken gives bool \(3,\), but must give bool \(16,\)"),
    ("kinds", np.zeros(16), (CELLS, None, CELLS), r"kinds gives float64 .* must give integers \(16,\)"),
    ("counted", CELLS[None], (CELLS,), r"counted gives uint8 \(1, 16\), but must give integers \(16,\)"),
    ("judge", True, (CELLS, CELLS, None), "judge gives True, but must give a Verdict"),
    ("comparisons", ["inputs"], (), r"comparisons gives \['inputs'\], but must give a list of Comparison"),
    ("example", CELLS, (None,), "example gives uint8 .*, but must give a puzzle and its answer"),
    (
        "example",
        (CELLS, CELLS[:2]),
        (None,),
        r"example gives \(uint8 \(16,\), uint8 \(2,\)\), but must give int",
    ),
    ("easier", 0.5, (0.5,), "easier gives 0.5, but must give a function"),
    ("units", [[0, 1]], ("",), r"units gives \[\[0, 1\]\], but must give CellUnits, or None"),
    ("describe", 4, (), "describe gives 4, but must give text"),
    ("unknown_labels", 0, (ROWS,), r"unknown_labels gives 0, but must give bool \(3,\)"),
]


@pytest.mark.parametrize(("method", "returned", "arguments", "message"), RETURNS)
def test_a_method_that_returns_something_else_is_named(method, returned, arguments, message):
    own = type("Own", (Latin,), {method: lambda self, *_: returned})
    family = own.from_sizes(seq_len=16, vocab_size=6)
    with pytest.raises(UserError, match=rf"test_outside_family@Own\.{message}"):
        getattr(family, method)(*arguments)


@pytest.mark.parametrize("kind", [property, cached_property])
@pytest.mark.parametrize(
    ("name", "returned", "message"),
    [
        ("symmetries", [CELLS], "symmetries gives .*, but must give Symmetries, or None"),
        ("grid_style", "colours", "grid_style gives 'colours', but must give a GridStyle"),
        ("shape", (4, 5), r"shape gives \(4, 5\), but must give rows and columns of a grid of 16 cells"),
    ],
)
def test_a_property_that_is_something_else_is_named(kind, name, returned, message):
    member = kind(lambda self: returned)
    if kind is cached_property:
        member.__set_name__(None, name)
    own = type("Own", (Latin,), {name: member})
    with pytest.raises(UserError, match=rf"test_outside_family@Own\.{message}"):
        getattr(own.from_sizes(seq_len=16, vocab_size=6), name)


def test_a_class_method_that_returns_something_else_is_named():
    own = type("Own", (Latin,), {"size_problem": classmethod(lambda cls, metadata: True)})
    with pytest.raises(UserError, match=r"size_problem gives True, but must give a reason in words, or None"):
        own.from_sizes(seq_len=16, vocab_size=6)


def test_a_value_error_in_a_method_is_named_with_its_line():
    class Own(Latin):
        @cached_property
        def symmetries(self):
            return FiniteSymmetries(np.array([[1, 0]]))

    where = r"Own\.symmetries: an element's inverse is missing.*|Own\.symmetries: elements must differ"
    with pytest.raises(UserError, match=rf"({where}).*\(symmetry.py, line \d+\)"):
        _ = Own.from_sizes(seq_len=16, vocab_size=6).symmetries


def test_a_family_may_leave_everything_out(tmp_path, outside):
    source = "from dataset.families.base import Family\n\n\nclass Own(Family):\n    name = 'bare@Own'\n"
    folder = write(tmp_path / "data", f"{outside('bare', source)}@Own")
    assert train(folder, tmp_path / "run", epochs=2, evaluators=None) == 0
    with pytest.raises(
        UserError, match="no symmetry of these puzzles is known: the family bare@Own defines no symmetries"
    ):
        train(folder, tmp_path / "other", augment="online")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("lambda *a: (a[3], a[4][:, :3])", r"makes \(uint8 \(8, 16\), uint8 \(8, 3\)\) of training puzzles"),
        (
            "lambda *a: a[3]",
            r"makes uint8 \(8, 16\) of training puzzles, but must make integers \(8, 16\) twice",
        ),
        ("lambda *a: (a[3] / 2, a[4])", r"makes \(float64 \(8, 16\), uint8"),
        ("lambda *a: (a[3] + 9, a[4])", "makes puzzles with tokens from 10 to 14, but vocab_size is 6"),
        ("lambda *a: (a[3], a[4] + 9)", "makes labels from 11 to 14, but vocab_size is 6"),
    ],
)
def test_easier_puzzles_that_are_no_rows_are_named(body, message, outside, tmp_path):
    source = (
        "from outside_family import Latin\n\n\nclass Own(Latin):\n    name = 'easy@Own'\n\n"
        f"    def easier(self, probability):\n        return {body}\n"
    )
    folder = write(tmp_path / "data", f"{outside('easy', source)}@Own")
    data = PuzzleDataset([str(folder)], "train", global_batch_size=8, reveal_prob=0.5)
    with pytest.raises(UserError, match=rf"the family easy@Own: its easier \(reveal_prob\) {message}"):
        next(data.batches())


def test_the_outside_family_is_no_part_of_the_repository():
    assert family_class(Latin.name) is Latin
    assert torch.equal(
        Latin.check_tensors(Latin.from_sizes(seq_len=16, vocab_size=6), *map(torch.from_numpy, (ROWS, ROWS))),
        torch.zeros(3, dtype=torch.bool),
    )
