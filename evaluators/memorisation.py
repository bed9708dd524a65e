"""Has the model learned to solve puzzles, or memorised its train puzzles? Four checks and a verdict, on one page.

    python -m evaluators.memorisation checkpoint=RUN_FOLDER

Checks whose data is missing are skipped, with the reason.
"""

from __future__ import annotations

if __name__ == "__main__":  # for the imports
    from utils.interrupts import handle_interrupts

    handle_interrupts()
    from utils.collection import pause_collection

    pause_collection()

from config.report_schema import MemorisationConfig
from utils.command_line.arguments import Command, check_arguments, read_command

COMMAND = Command("-m evaluators.memorisation", __doc__.strip(), MemorisationConfig)

if __name__ == "__main__":  # before the imports below, which include torch
    check_arguments(COMMAND)

import sys

from dataset.families import named_family
from evaluators.reports.memorisation_report import report
from utils.collection import resume_collection
from utils.errors import report_user_errors


def main(arguments: list[str]) -> None:
    resume_collection()
    config = read_command(arguments, COMMAND)
    with named_family(config.family):
        report(config)


if __name__ == "__main__":
    report_user_errors(main)(sys.argv[1:])
