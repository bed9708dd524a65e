"""Render the page of recipes from the headers of config/experiment/*.yaml."""

from __future__ import annotations

from config.recipe_headers import RECIPES, read_header
from docs.generator.markdown import first_comment, page, prose

_INTRO = """\
A recipe is a file in `config/experiment/` that sets training keys. Its header gives the commands that build the data
and train, and the expected time and score. You can override any key on the command line:
`python pretrain.py +experiment=sudoku6x6 seed=1`."""


def recipes_page() -> str:
    parts = [_INTRO]
    for path in sorted(RECIPES.glob("*.yaml")):
        said = read_header(path)
        commands = "\n".join("\n  ".join(said[name]) for name in ("Data", "Train"))
        parts += [
            f"## `{path.stem}`",
            prose(first_comment(path)),
            f"```bash\n{commands}\n```",
            "\n".join(f"- {name}: {prose(' '.join(said[name]))}" for name in ("Time", "Score")),
        ]
    return page("Recipes", *parts)
