"""Check a submission.json for ARC Prize on Kaggle against the tasks that it answers, and score it if answers are known.

    python -m dataset.families.arc.check_submission submission.json --input-file-prefix PREFIX --subset test

Every task and test input must be there, each with attempt_1 and attempt_2, and each attempt must be a grid of 1x1 to
30x30 colours 0 to 9. The exit status is 2 if anything is wrong.
"""

from __future__ import annotations

if __name__ == "__main__":  # Ctrl-C during the imports
    from utils.interrupts import handle_interrupts

    handle_interrupts()

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dataset.families.arc.grids import parse_grid
from dataset.families.arc.tasks import Task, read_subset
from dataset.format import problems_text
from dataset.options import OptionParser
from utils.errors import UserError, report_user_errors
from utils.files import expand_home
from utils.reading import read_json, shortened

ATTEMPTS = ("attempt_1", "attempt_2")


@report_user_errors
def main(arguments: list[str] | None = None) -> int:
    """Print what the submission holds. Raises UserError that lists everything that is wrong."""
    parser = OptionParser(prog="check_submission", description=__doc__.splitlines()[0])
    parser.add_argument("submission", type=expand_home, help="the file to check")
    parser.add_argument(
        "--input-file-prefix",
        type=expand_home,
        required=True,
        help="prefix of the competition's files, as for build_arc_dataset",
    )
    parser.add_argument("--subset", default="test", help="subset whose tasks the submission answers")
    options = parser.parse_args(arguments)
    tasks = read_subset(options.input_file_prefix, options.subset)
    submission = read_json(Path(options.submission))
    if problems := list(submission_problems(submission, tasks)):
        raise UserError(problems_text([f"{options.submission}: {problem}" for problem in problems]))
    print(f"{options.submission}: valid, {summary(submission, tasks)}")
    return 0


def submission_problems(submission: Any, tasks: Sequence[Task]) -> Iterator[str]:
    """Yield one line for everything that Kaggle would refuse or count as no answer."""
    if not isinstance(submission, dict):
        yield f"must hold an object of tasks by name, but holds a {type(submission).__name__}"
        return
    names = {task.name for task in tasks}
    for name in submission:
        if name not in names:
            yield f"task {name} is not among the {len(names)} tasks of this subset"
    for task in tasks:
        answers = submission.get(task.name)
        if answers is None:
            yield f"task {task.name} is missing"
        elif not isinstance(answers, list) or len(answers) != len(task.test):
            found = len(answers) if isinstance(answers, list) else shortened(repr(answers))
            yield f"task {task.name}: has {found} answers, but the task has {len(task.test)} test inputs"
        else:
            for number, answer in enumerate(answers):
                yield from _answer_problems(answer, f"task {task.name}, test input {number}")


def _answer_problems(answer: Any, where: str) -> Iterator[str]:
    if not isinstance(answer, dict) or sorted(answer) != list(ATTEMPTS):
        found = sorted(answer) if isinstance(answer, dict) else answer
        yield f"{where}: must be an object with exactly {' and '.join(ATTEMPTS)}, but is {shortened(repr(found))}"
        return
    for name in ATTEMPTS:
        try:
            parse_grid(answer[name], f"{where}, {name}")
        except UserError as error:
            yield str(error)


def summary(submission: dict[str, list[dict[str, Any]]], tasks: Sequence[Task]) -> str:
    """Count tasks, test inputs and second attempts without use; with known answers also state Kaggle's score.

    Kaggle's score is the share of test inputs, over all tasks, one of whose two attempts is the answer.
    """
    answers = [answer for task in tasks for answer in submission[task.name]]
    repeated = sum(answer["attempt_1"] == answer["attempt_2"] for answer in answers)
    text = f"{len(tasks):,} tasks, {len(answers):,} test inputs, two attempts each"
    if repeated:
        text += f"; attempt_2 repeats attempt_1 for {repeated:,} of them"
    pairs = [
        (answer, solution.tolist())
        for task in tasks
        for answer, (_, solution), known in zip(submission[task.name], task.test, task.known, strict=True)
        if known
    ]
    if not pairs:
        return f"{text}; the answers are unknown, so there is no score"
    solved = sum(solution in answer.values() for answer, solution in pairs)
    return f"{text}; solved {solved:,} of {len(pairs):,} test inputs with a known answer ({solved / len(pairs):.1%})"


if __name__ == "__main__":
    sys.exit(main())
