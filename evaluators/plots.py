"""Draw a run, or compare several: figures as PDF, SVG and PNG.

    python -m evaluators.plots checkpoint=RUN
    python -m evaluators.plots runs=[A,B,C] panel=accuracy by=arch.L_cycles

Of one run: training curves, accuracy by supervision step, and accuracy by difficulty; figures without data are skipped,
with a line that says why. Of several: one panel, seeds as their median and range, and a CSV file of what is drawn.
"""

from __future__ import annotations

if __name__ == "__main__":  # for the imports
    from utils.interrupts import handle_interrupts

    handle_interrupts()
    from utils.collection import pause_collection

    pause_collection()

from config.report_schema import PlotsConfig
from utils.command_line.arguments import Command, check_arguments, read_command

COMMAND = Command(
    "-m evaluators.plots",
    __doc__.strip(),
    PlotsConfig,
    required={},
    advice=lambda: "  one of these is required: checkpoint=RUN, or runs=[A,B,C]",
)

if __name__ == "__main__":  # before the imports below, which include torch
    check_arguments(COMMAND)

import sys

from dataset.families import named_family
from evaluators.reports.run_comparison import compare_runs
from evaluators.reports.run_figures import draw_run
from utils.collection import resume_collection
from utils.errors import report_user_errors


def main(arguments: list[str]) -> None:
    resume_collection()
    config = read_command(arguments, COMMAND)
    if config.runs is not None:
        compare_runs(config)
        return
    with named_family(config.family):
        draw_run(config)


if __name__ == "__main__":
    report_user_errors(main)(sys.argv[1:])
