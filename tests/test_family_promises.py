"""Families keep their promises, and `dataset.families.check` detects every broken one."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache, cached_property

import numpy as np
import pytest
import torch
from arc_samples import build as build_arc
from takuzu import Takuzu

from dataset.families import FAMILIES, check, family_class
from dataset.families.base import Comparison, RowForm, Verdict
from dataset.families.browser_rules import CountRule
from dataset.families.grid_style import GridStyle, LegendEntry, rgb
from dataset.families.symmetry import Copies, FiniteSymmetries, GroupElements, Symmetries
from dataset.promises import PROMISES, broken_promises
from dataset.units import CellUnits

BUILDS = {"arc": build_arc}  # small datasets of families that cannot generate puzzles


@pytest.mark.parametrize("name", [*FAMILIES, Takuzu.name])
def test_a_family_keeps_its_promises(name, tmp_path):
    own = family_class(name).example is not None
    cases = list(
        check.generated_puzzles(name) if own else check.dataset_puzzles(name, BUILDS[name](tmp_path / "data"))
    )
    assert len(cases) >= 2
    for _, puzzles in cases:
        assert len(puzzles) > 1
        assert broken_promises(puzzles.family, puzzles.questions, puzzles.labels) == []


# ------------------------------------------------------------------------------ families that break a promise


@cache
def puzzles() -> tuple[np.ndarray, np.ndarray]:
    family = Takuzu.from_sizes(seq_len=36, vocab_size=4)
    made = [family.example(np.random.default_rng(seed)) for seed in range(6)]
    return tuple(np.stack(tokens) for tokens in zip(*made, strict=True))


class OtherName(Takuzu):
    name = "maze"


class RefusesItsOwn(Takuzu):
    @classmethod
    def size_problem(cls, metadata):
        return "no size is right"


class WrittenFromBelow(Takuzu):
    def write(self, question):
        return "\n".join(super().write(question).split("\n")[::-1])


class NoHelp(Takuzu):
    text_help = None


class ReadsAnything(Takuzu):
    def read(self, text):
        tokens = [self.characters[c] for c in text if c in self.characters]
        return np.resize(np.array(tokens or [1], np.uint8), self.metadata.seq_len)


class UnseededExamples(Takuzu):
    def example(self, rng):
        return super().example(np.random.default_rng())


class CountsTooFew(Takuzu):
    def browser_rules(self):
        rows = tuple(tuple(range(start, start + 6)) for start in range(0, 36, 6))
        return replace(super().browser_rules(), counts=(CountRule("row", rows, (2, 3), least=3, most=3),))


class KeepsNothing(Takuzu):
    def browser_rules(self):
        return replace(super().browser_rules(), becomes={})


class ReadsOtherwiseInTheBrowser(Takuzu):
    def browser_rules(self):
        return replace(super().browser_rules(), characters={".": 1, "0": 3, "1": 2})


class WrongExamples(Takuzu):
    def example(self, rng):
        question, answer = super().example(rng)
        return question, answer[::-1]


class WarnsOfItsExamples(Takuzu):
    def remarks(self, question):
        return ["this may be unsolvable"]


class NothingIsRight(Takuzu):
    def check(self, questions, answers):
        return super().check(questions, answers) & False


class MarksRightCells(Takuzu):
    def broken(self, question, answer):
        return question != 1


class StrangeKinds(Takuzu):
    def kinds(self, question, previous, answer):
        return super().kinds(question, previous, answer) + 3


class EverythingIsRight(Takuzu):
    def check(self, questions, answers):
        return np.ones(len(questions), bool)


class JudgesWithoutGivenCells(Takuzu):
    def judge(self, question, answer, labels):
        return Verdict(bool(self.check(np.ones_like(question)[None], answer[None])[0]), "by the rules alone")


class MarksNothing(Takuzu):
    def broken(self, question, answer):
        return np.zeros(len(question), bool)


class CountsFulfilledRules(Takuzu):
    def check(self, questions, answers):
        return super().check(questions, answers).astype(int)


class OverwritesAnswers(Takuzu):
    def check(self, questions, answers):
        right = super().check(questions, answers)
        answers[:] = questions
        return right


class OnlyBytes(Takuzu):
    def check(self, questions, answers):
        return super().check(questions, answers) & (answers.dtype == np.uint8)


class JudgesUnfinished(Takuzu):
    def judge(self, question, answer, labels):
        return (
            Verdict(True, "so far") if (answer == question).all() else super().judge(question, answer, labels)
        )


class TensorsWithoutGivenCells(Takuzu):
    def check_tensors(self, questions, answers):
        return Takuzu.check(self, torch.ones_like(questions), answers)


class TensorsOfShares(Takuzu):
    def check_tensors(self, questions, answers):
        return Takuzu.check(self, questions, answers).float()


class TensorsAlone(Takuzu):
    check = None


class OwnInverses(Takuzu):
    @cached_property
    def symmetries(self):
        group = FiniteSymmetries.of_rectangle(self.shape)
        group.inverses = np.arange(group.most)  # wrong for quarter turns
        return group


class BytesOnly(GroupElements):
    def apply(self, tokens):
        return super().apply(tokens).astype(np.uint8)


class Changed(FiniteSymmetries):
    """The dihedral group, with methods replaced below."""

    def __init__(self):
        super().__init__(FiniteSymmetries.of_rectangle((6, 6)).cells)


class DrawsBytes(Changed):
    def draw(self, rng, count):
        return BytesOnly(self, super().draw(rng, count).which)


class SaysSeven(Changed):
    def draw_copies(self, rngs, count):
        self.most = 8
        drawn = super().draw_copies(rngs, count)
        self.most = 7
        return drawn

    def draw(self, rng, count):
        return GroupElements(self, rng.choice(8, count))


class SaysSixteen(Changed):
    def __init__(self):
        super().__init__()
        self.most = 16

    def draw_copies(self, rngs, count):
        return GroupElements(self, np.arange(len(rngs) * count) % 8)

    def draw(self, rng, count):
        return GroupElements(self, rng.choice(8, count))


class IdentityLast(Changed):
    def draw_copies(self, rngs, count):
        return GroupElements(
            self, super().draw_copies(rngs, count).which.reshape(-1, count)[:, ::-1].reshape(-1)
        )


class NeverTurnedBack(Changed):
    def copies(self, *arguments):
        made = super().copies(*arguments)
        return Copies(made.tokens, made.identifiers, lambda answers: answers)


class DrawnFromTheBatch(Changed):
    def copies(self, tokens, identifiers, numbers, count, seed):
        return super().copies(tokens, identifiers, numbers + len(tokens), count, seed)


class TwoRowsExchanged(FiniteSymmetries):
    def __init__(self):
        rows = np.arange(36).reshape(6, 6)
        super().__init__(np.stack([rows, rows[[1, 0, 2, 3, 4, 5]]]).reshape(2, 36))


def with_symmetries(kind: type[Symmetries]) -> type[Takuzu]:
    return type(kind.__name__, (Takuzu,), {"symmetries": property(lambda self: kind())})


def with_style(**changes) -> type[Takuzu]:
    def grid_style(self):
        return GridStyle(**{**vars(Takuzu.from_sizes(seq_len=36, vocab_size=4).grid_style), **changes})

    return type("Styled", (Takuzu,), {"grid_style": property(grid_style)})


def with_comparison(keys, prefilter=None) -> type[Takuzu]:
    def comparisons(self):
        return [Comparison("inputs", lambda inputs, labels: keys(self, inputs), prefilter)]

    return type("Compared", (Takuzu,), {"comparisons": comparisons})


def with_easier(change) -> type[Takuzu]:
    """Return a family whose easier inputs are `change(generator, probability, rows of this rank, inputs, labels)`."""

    def easier(self, probability):
        return lambda rng, count, mine, inputs, labels: (
            change(rng, probability, mine, inputs, labels),
            labels,
        )

    return type("Easier", (Takuzu,), {"easier": easier})


def rows_of(inputs: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in inputs]


def overwritten(rng, probability, mine, inputs, labels):
    inputs[:] = labels if probability else inputs
    return inputs


MUTANTS = [
    ("name and sizes", OtherName, "the name maze does not refer to the class OtherName"),
    ("name and sizes", RefusesItsOwn, "its own puzzles are rejected: no size is right"),
    ("text", WrittenFromBelow, r"puzzle 0 \(.*\) is written as .* and read as"),
    ("text", NoHelp, "text_help does not say"),
    ("text", ReadsAnything, "read accepts ''"),
    ("rules in the browser", CountsTooFew, "check says False, but browser_rules say True for puzzle"),
    ("rules in the browser", KeepsNothing, "browser_rules and broken disagree about cell"),
    ("rules in the browser", ReadsOtherwiseInTheBrowser, "browser_rules read .* differently from puzzle 0"),
    ("examples", UnseededExamples, "seed 0 gives different puzzles in two calls"),
    ("examples", WrongExamples, "seed 0 gives .* with an answer that is judged wrong"),
    ("examples", WarnsOfItsExamples, "about which it warns: this may be unsolvable"),
    ("right answers", NothingIsRight, "its label is judged not solved"),
    ("right answers", MarksRightCells, "broken marks cell"),
    ("right answers", StrangeKinds, "kinds gives"),
    (
        "wrong answers",
        EverythingIsRight,
        r"with cell \d+ of its answer changed from \d to \d is judged solved",
    ),
    ("wrong answers", MarksNothing, "broken marks no changed cell"),
    ("check", JudgesWithoutGivenCells, "check says False, but judge says True"),
    ("check", CountsFulfilledRules, "check gives int64"),
    ("check", OverwritesAnswers, "check changes its input arrays"),
    ("check", OnlyBytes, "different results for int64"),
    ("check", JudgesUnfinished, "check says False, but judge says True"),
    ("check_tensors", TensorsWithoutGivenCells, "check says False, but check_tensors says True"),
    ("check_tensors", TensorsOfShares, "check_tensors gives torch.float32"),
    ("check_tensors", TensorsAlone, "but check is not"),
    ("inverse symmetries", OwnInverses, r"its inverse map cell \d+ of"),
    ("inverse symmetries", with_symmetries(DrawsBytes), "images of int64"),
    ("group of symmetries", with_symmetries(SaysSeven), "not among the 7 copies"),
    ("group of symmetries", with_symmetries(SaysSixteen), "most is 16, but there are 8"),
    ("group of symmetries", with_symmetries(IdentityLast), "first copy of a puzzle is not the puzzle"),
    ("symmetric answers", with_symmetries(TwoRowsExchanged), "is judged not solved: breaks the rules"),
    ("copies that vote", with_symmetries(NeverTurnedBack), r"copy \d of puzzle 0 .* is mapped back to"),
    ("copies that vote", with_symmetries(DrawnFromTheBatch), "depend on the batch"),
    ("grid style", with_style(symbols=" .0"), "3 symbols for 4 tokens"),
    ("grid style", with_style(legend=(LegendEntry(4, 0, "no token"),)), "legend names the token 4"),
    ("grid style", with_style(colours=rgb([0, 1, 2])), r"uint8 \(3, 3\) instead of uint8 \(4, 3\)"),
    ("grid style", with_style(cells="path"), "blend does not name"),
    ("drawing in the terminal", with_style(symbols=" .00"), "the tokens 2 and 3 look the same"),
    ("drawing in the terminal", with_style(symbols=" .0\n"), "does not take 12 columns"),
    (
        "drawing in pictures",
        with_style(cells="colours", colours=rgb([0, 1, 2, 2])),
        "tokens 2 and 3 look the same",
    ),
    (
        "units",
        type("Boxes", (Takuzu,), {"units": lambda self, where: CellUnits.of_boxes(2, 2)}),
        "units have 16",
    ),
    ("leakage keys", with_comparison(lambda self, inputs: rows_of(inputs)), "differ in their key"),
    ("leakage keys", with_comparison(lambda self, inputs: [None] * len(inputs)), "no puzzle has a key"),
    ("leakage keys", with_comparison(lambda self, inputs: [b""]), "the keys of 6 puzzles are"),
    (
        "leakage keys",
        with_comparison(lambda self, inputs: self.symmetries.keys(inputs), rows_of),
        "differ in their prefilter key",
    ),
    (
        "rows compared",
        type("Rows", (Takuzu,), {"rows_compared": RowForm(lambda rows: rows // 2, lambda rows: rows[:, :8])}),
        r"instead of uint8 \(6, 48\)",
    ),
    (
        "rows compared",
        type(
            "Rows",
            (Takuzu,),
            {"rows_compared": RowForm(lambda r: r // 2, lambda r: np.resize(r, (len(r), 48)))},
        ),
        "canonical form of a canonical row is not that row",
    ),
    ("easier puzzles", with_easier(overwritten), "it changes its input arrays"),
    (
        "easier puzzles",
        with_easier(lambda rng, p, mine, inputs, labels: labels),
        "although the probability is 0",
    ),
    (
        "easier puzzles",
        with_easier(lambda rng, p, mine, inputs, labels: inputs),
        "although the probability is 1",
    ),
    (
        "easier puzzles",
        with_easier(lambda rng, p, mine, inputs, labels: 5 - labels if p else inputs),
        "with the wrong answer",
    ),
    (
        "easier puzzles",
        with_easier(
            lambda rng, p, mine, inputs, labels: np.where(rng.random(inputs.shape) < p / 2, labels, inputs)
        ),
        "which rows of the batch",
    ),
    ("evaluator", type("Named", (Takuzu,), {"evaluator": "rules"}), "'rules' is not module@Class"),
    (
        "evaluator",
        type("Named", (Takuzu,), {"evaluator": "nosuch@Rules"}),
        "'nosuch@Rules' is not module@Class",
    ),
    ("evaluator", type("Named", (Takuzu,), {"evaluator": "rules@Laws"}), "has no class Laws"),
]


@pytest.mark.parametrize(
    ("promise", "cls", "failure"),
    MUTANTS,
    ids=[f"{promise}, {failure[:30]}" for promise, _, failure in MUTANTS],
)
def test_a_broken_promise_is_reported_with_an_example(promise, cls, failure):
    family = cls(Takuzu.from_sizes(seq_len=36, vocab_size=4).metadata, None)
    (said,) = [line for line in broken_promises(family, *puzzles()) if line.startswith(f"{promise}: ")]
    assert re.search(failure, said)


def test_every_promise_can_be_broken():
    assert {promise for promise, _, _ in MUTANTS} == {promise.name for promise in PROMISES}


def test_an_exception_breaks_the_promise_being_tested():
    class Raises(Takuzu):
        def comparisons(self):
            raise KeyError("a missing key")

    family = Raises(Takuzu.from_sizes(seq_len=36, vocab_size=4).metadata, None)
    (said,) = broken_promises(family, *puzzles())
    assert re.fullmatch(
        r"leakage keys: KeyError: 'a missing key' \(test_family_promises.py, line \d+\)", said
    )


# ------------------------------------------------------------------------------ the command


def test_the_command_lists_kept_and_unsupported_promises(capsys):
    assert check.main([Takuzu.name]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "takuzu@Takuzu, 4x4: 12 generated puzzles"
    said = dict(re.split("  +", line.strip()) for line in lines[: len(PROMISES)])
    assert said.keys() == {promise.name for promise in PROMISES}
    not_offered = {
        "units",
        "rows compared",
    }
    assert said == {name: "not offered" if name in not_offered else "kept" for name in said}


def test_the_command_checks_the_puzzles_of_a_dataset(sudoku4x4, capsys):
    assert check.main(["sudoku", str(sudoku4x4)]) == 0
    titles = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert titles == [
        f"sudoku, 4x4, boxes of 2x2: 12 puzzles of {sudoku4x4 / split}, all" for split in ("train", "test")
    ]


def test_the_command_fails_if_a_promise_is_broken(tmp_path, monkeypatch, capsys):
    (tmp_path / "careless.py").write_text(
        "from takuzu import Takuzu\n\n\nclass Careless(Takuzu):\n"
        '    name = "careless@Careless"\n    sizes_to_check = Takuzu.sizes_to_check[:1]\n\n'
        "    def check(self, questions, answers):\n        return (answers > 1).all(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert check.main(["careless@Careless"]) == 1
    assert re.search(r"  wrong answers +BROKEN: puzzle 0 .* is judged solved", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chess"], "the argument names the family 'chess', which is neither one of"),
        (["chess@Chess"], "which cannot be imported"),
        (["arc"], "the family arc cannot generate puzzles"),
        (["arc", "SUDOKU"], "names the family arc, but vocab_size is 6, not 12"),
        (["sudoku", "nowhere"], "nowhere: there is no such dataset"),
    ],
)
def test_impossible_checks_give_an_error(arguments, message, sudoku4x4, capsys):
    with pytest.raises(SystemExit) as end:
        check.main([str(sudoku4x4) if argument == "SUDOKU" else argument for argument in arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
