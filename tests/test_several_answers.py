"""Puzzles with several right answers: tables, plots and reports count what is solved by the rules, labels apart.

The model answers the empty 4x4 board of queens with one of its two solutions; the labels of the test are the other.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from training_runs import metrics, tiny, train

from config.evaluate_schema import STRATEGIES, EvaluateConfig
from config.report_schema import MemorisationConfig, ReportConfig
from dataset.families.nqueens.rules import EMPTY, QUEEN, VOCAB_SIZE
from dataset.format import SPLITS, SplitWriter, write_identifiers
from evaluate import run_evaluation
from evaluators.exports.model_card import model_card
from evaluators.inference import Solver
from evaluators.reports import memorisation_report, run_figures
from evaluators.reports.evaluation_report import summary
from evaluators.score import wilson_interval
from evaluators.strategies.accounting import Tally
from evaluators.strategies.compute_curve import tables
from models.losses import ACTLossHead
from models.registry import build_model
from trained_run import open_trained
from utils.distributed import World
from utils.strict_model import parse

NUM_TEST, NUM_LABELLED = 5, 4
LEARNED = np.full((4, 4), EMPTY, np.uint8)
LEARNED[range(4), [1, 3, 0, 2]] = QUEEN
OTHER = LEARNED[:, ::-1]
STEPS = 3
ARCH = ("arch.pos_encodings=learned", "arch.hidden_size=32", f"arch.halt_max_steps={STEPS}")
OPTIONS = {
    "symmetry": {"symmetries": 4},
    "noise": {"chains": 3, "sigma": 1e-3},
    "ladder": {"rungs": ["steps", "more_steps", "symmetry"], "symmetries": 2},
}
CURVES = {"plain": "steps", "ladder": "rungs", "guess": "rungs"}


def answering(arch: dict) -> ACTLossHead:
    """A model with random weights whose output layer is fitted: it answers the empty board, and says stop at once."""
    torch.manual_seed(0)
    model = build_model(arch, seq_len=16, vocab_size=VOCAB_SIZE, num_puzzle_identifiers=1).eval()
    layer, seen = model.architecture.lm_head, []
    hook = layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0][0, -16:]))
    list(Solver(model).refine(np.full((1, 16), EMPTY), max_steps=STEPS))
    hook.remove()
    wanted = torch.nn.functional.one_hot(torch.from_numpy(LEARNED.reshape(-1).astype(np.int64)), VOCAB_SIZE)
    with torch.no_grad():
        fitted = torch.linalg.lstsq(torch.cat(seen), wanted.float().repeat(STEPS, 1)).solution
        layer.weight.copy_(fitted.T)
        model.architecture.q_head.bias.fill_(5)
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("queens")
    sizes = {
        "seq_len": 16,
        "vocab_size": VOCAB_SIZE,
        "extra": {"family": "nqueens", "difficulty": "right answers"},
    }
    for split, label, count in zip(SPLITS, (LEARNED, OTHER), (8, NUM_TEST), strict=True):
        with SplitWriter(root / "data" / split, **sizes) as writer:
            for number in range(count):
                known = split == "train" or number < NUM_LABELLED
                question, answer = np.full((1, 16), EMPTY), label.reshape(1, 16) * known
                writer.add_group(question, answer, np.zeros(1, np.int64), difficulty=[2.0])
            writer.close(num_puzzle_identifiers=1)
    write_identifiers(root / "data", ["<blank>"])
    values = {"load_checkpoint": str(root / "weights"), "evaluators": None, "epochs": 2, "eval_interval": 1}
    values |= {"lr": 0.0, "puzzle_emb_lr": 0.0, "log_interval": 1, "best_metric": "auto"}
    torch.save(answering(tiny(root / "data", root / "run", *ARCH).arch).state_dict(), root / "weights")
    assert train(root / "data", root / "run", *ARCH, **values) == 0
    return root / "run"


@pytest.fixture(scope="module")
def reports(run):
    """Strategy -> report of `evaluate.py`, with the checker if the strategy takes one."""
    made = {}
    for strategy in STRATEGIES:
        values = {"checkpoint": str(run), "device": "cpu", "compile": False}
        values |= {"checker": True} if "checker" in STRATEGIES[strategy].options else {}
        values |= {"strategy": strategy, "out": str(run / strategy), **OPTIONS.get(strategy, {})}
        made[strategy] = run_evaluation(parse(EvaluateConfig, values), World())
    return made


def test_training_reports_and_keeps_the_best_by_the_rules(run):
    last = metrics(run)[-1]
    assert (last["nqueens/solved"], last["nqueens/exact"]) == (1, 0)
    assert (last["test/solved"], last["test/exact_accuracy"]) == (1, 0)
    assert json.loads((run / "best.json").read_text())["metric"] == "test/solved"
    assert (
        (run / "result.txt")
        .read_text()
        .startswith(f"solved {NUM_TEST} of {NUM_TEST} unseen puzzles (100.0%)")
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_counts_right_answers_that_are_not_the_label(strategy, reports):
    report = reports[strategy]
    end = report["curves"][CURVES.get(strategy, "chains")][-1]
    assert end["solved"] == report["rows_solved"] / NUM_TEST == 1
    # A vote of mirrored boards may end in either solution.
    assert end["exact_accuracy"] == report["rows_exact"] / NUM_LABELLED
    assert report["rows_exact"] == 0 or strategy in ("symmetry", "ladder")
    assert report["solved_by"] == "rules"
    assert report["solved_interval_95"] == list(wilson_interval(NUM_TEST, NUM_TEST))
    assert report["exact_accuracy_interval_95"] == list(wilson_interval(report["rows_exact"], NUM_LABELLED))
    suffix = "_with_checker" if strategy == "ladder" else ""
    assert report["metrics"][f"nqueens/solved{suffix}"] == report["metrics"][f"test/solved{suffix}"] == 1


@pytest.mark.parametrize("strategy", ["symmetry", "noise", "ensemble"])
def test_an_oracle_picks_by_the_rules(strategy, reports):
    oracle, chains = (reports[strategy]["curves"][name] for name in ("oracle_pass_at", "chains"))
    assert all(row["solved"] >= by_vote["solved"] for row, by_vote in zip(oracle, chains, strict=True))
    assert oracle[-1]["solved"] == 1


@pytest.mark.parametrize("strategy", sorted(STRATEGIES.keys() - {"guess", "ladder"}))
def test_stopping_at_the_first_valid_answer_solves_the_puzzles_that_the_checker_accepts(strategy, reports):
    (row,) = reports[strategy]["curves"]["with_checker"]
    assert row["solved"] == row["said_stop"] == 1


def test_a_rung_of_the_ladder_counts_both(reports):
    rungs = reports["ladder"]["rungs"]
    assert rungs["steps"] == {
        "rows_entering": NUM_TEST,
        "rows_said_solved": NUM_TEST,
        "of_them_solved": NUM_TEST,
        "of_them_exact": 0,
        "supervision_steps": rungs["steps"]["supervision_steps"],
    }
    assert rungs["symmetry"]["rows_entering"] == 0


def test_halting_is_compared_by_the_rules(run):
    values = {
        "checkpoint": str(run),
        "device": "cpu",
        "compile": False,
        "halt": True,
        "out": str(run / "halt"),
    }
    halting = run_evaluation(parse(EvaluateConfig, values), World())["halting"]
    assert (halting["solved"], halting["solved_of_the_full_run"]) == (1, 1)
    assert (halting["exact_accuracy"], halting["exact_accuracy_of_the_full_run"]) == (0, 0)


def test_the_summary_says_both_with_their_intervals(reports, tmp_path):
    said = summary(reports["plain"], tmp_path)
    assert "solved by the rules 100.00%, 95% interval" in said
    assert "exact accuracy 0.00%, 95% interval" in said
    assert any("solved" in line and "exact" in line for line in said.splitlines() if "applications" in line)
    assert "oracle (by rules)" in summary(reports["noise"], tmp_path)


def test_the_card_of_an_export_says_both(run):
    values = {"checkpoint": str(run), "device": "cpu", "compile": False}
    run_evaluation(parse(EvaluateConfig, values), World())
    trained = open_trained(str(run))
    card = model_card(trained, trained.sizes(), 1, None)
    assert "solved by the rules 100.00% (95% interval" in card
    assert "exact accuracy 0.00% (95% interval" in card


def test_plots_show_the_share_solved_by_the_rules(run):
    config = ReportConfig(checkpoint=str(run), device="cpu")
    (table, num_puzzles, _), by_difficulty = run_figures.solve_test_puzzles(open_trained(str(run)), config)
    assert num_puzzles == NUM_TEST
    assert (table[-1]["solved"], table[-1]["exact_accuracy"]) == (1, 0)
    assert by_difficulty.by_rules
    assert by_difficulty.classes() == {"2-3": (NUM_TEST, NUM_TEST)}
    figure = run_figures.curves.accuracy_by_step(table, num_puzzles, STEPS)
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels[:2] == ["puzzles solved by the rules, 95% interval", "equal to the label"]
    solved = run_figures.curves.training_curves(metrics(run), 8).axes[1]
    assert solved.get_ylabel() == "solved by the rules"
    assert max(solved.lines[-1].get_ydata()) == 1


def test_the_memorisation_report_compares_shares_solved_by_the_rules(run, capsys):
    memorisation_report.report(MemorisationConfig(checkpoint=str(run), device="cpu"))
    said = capsys.readouterr().out
    assert "100.0% of the test puzzles: a gap of" in said
    assert "100.0% of the test puzzles are solved" in said


def test_the_tally_asks_the_rules_about_every_alternative_of_a_part():
    questions = np.arange(6)[:, None]
    answers = np.array([[[0], [9]], [[8], [9]], [[9], [2]], [[3], [3]], [[7], [7]], [[5], [7]]])
    tally = Tally(lambda asked, given: (asked == given).all(1))
    tally.begin(torch.full((6, 1), 9), torch.from_numpy(questions))
    for part in (slice(0, 2), slice(2, 6)):
        tally.record("oracle_pass_at", 2, answers[part], 1, part=part)
        tally.record("chains", 2, answers[part, 1], 1, part=part)
    tally.end()
    oracle, chains = (tables(tally, 1)[curve][0] for curve in ("oracle_pass_at", "chains"))
    assert (oracle["solved"], oracle["exact_accuracy"]) == (round(4 / 6, 6), round(3 / 6, 6))
    assert (chains["solved"], chains["exact_accuracy"]) == (round(2 / 6, 6), round(2 / 6, 6))
