"""Render the page of recipes from the headers of config/experiment/*.yaml."""

from __future__ import annotations

from config.recipe_headers import read_headers
from docs.generator.markdown import page, prose

_INTRO = """\
A recipe is a file in `config/experiment/` that sets training keys. Its header gives the commands that build the data
and train, says what it needs, and gives the expected time and score. Scores that are not called published were measured
here; their seeds and intervals are in [RESULTS.md](../../RESULTS.md). `python pretrain.py` without arguments lists the
recipes that fit your machine. You can override any key on the command line:
`python pretrain.py +experiment=sudoku6x6 seed=1`."""


def recipes_page() -> str:
    parts = [_INTRO]
    for header in read_headers():
        said = header.fields
        commands = "\n".join("\n  ".join(said[name]) for name in ("Data", "Train"))
        parts += [
            f"## `{header.name}`",
            prose(header.title),
            f"```bash\n{commands}\n```",
            "\n".join(f"- {name}: {prose(' '.join(said[name]))}" for name in ("Needs", "Time", "Score")),
        ]
    return page("Recipes", *parts)
