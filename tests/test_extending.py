"""docs/extending.md: files, names and lines exist, and its examples work."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
import torch
from test_layering import import_cycles
from training_runs import ROOT, TINY, metrics, run_python, tiny

from evaluators.strategies import STRATEGIES
from models.losses import ACTLossHead
from models.optim import configs
from models.train.metrics import METRICS
from models.train.step import train_step
from training_run import build
from utils.distributed import World

PAGE = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_files_exist_and_define_the_documented_names():
    paths = [path for path in re.findall(r"`([\w./]+\.(?:py|yaml))`", PAGE) if "NAME" not in path]
    new = {"config/optimizer/nadam.yaml", *re.findall(r"As `([\w/]+\.py)`", PAGE)}
    assert [path for path in paths if path not in new and not (ROOT / path).exists()] == []
    placed = re.findall(r"`(\w+)` in `([\w./]+)`", PAGE)
    assert len(placed) == 4
    for name, path in placed:
        assert re.search(rf"^{name}\b", (ROOT / path).read_text(), re.MULTILINE), (name, path)


def test_the_documented_line_of_optimizers_is_in_the_file():
    (line,) = re.findall(r"`(_AnyConfig = [^`]+)`", PAGE)
    assert line in (ROOT / "models/optim/configs.py").read_text().splitlines()
    assert list(configs.OPTIMIZERS.values()) == list(get_args(configs._AnyConfig))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_names_a_function_that_builds_it(strategy):
    module, _, function = STRATEGIES[strategy].builder.partition("@")
    build = getattr(import_module(f"evaluators.strategies.{module}"), function)
    assert list(inspect.signature(build).parameters)[:3] == ["choice", "setting", "checker"]


def test_the_optimizer_of_the_page_trains_and_resumes(identified, tmp_path):
    names: dict = {}
    exec(compile(EXAMPLES[0], "extending.md", "exec", dont_inherit=True), names)
    run = build(tiny(identified, tmp_path / "run"), World())
    config = run.config.model_copy(update={"optimizer": names["NAdamConfig"](momentum_decay=0.1)})
    runs = [build(config, World()) for _ in range(2)]
    batches = [batch for _, batch, _ in run.train_data.batches(1)]
    for batch in batches[:2]:
        train_step(runs[0].state, batch, World(), seed=0, global_batch_size=8)
    saved = deepcopy((runs[0].state.shared_state(), runs[0].state.rank_state()))
    runs[1].state.load(*saved)
    for each in runs:
        train_step(each.state, batches[2], World(), seed=0, global_batch_size=8)
    (group,) = runs[1].state.optimizers.by_name["weights"].param_groups
    assert group["momentum_decay"] == 0.1
    pairs = zip(*(each.state.model.parameters() for each in runs), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_the_metric_of_the_page_is_logged(identified, tmp_path, monkeypatch):
    names: dict = {}
    exec(EXAMPLES[1], names)
    monkeypatch.setattr(ACTLossHead, "metrics", METRICS | {"blank_share": names["BLANK_SHARE"]})
    run, twin = (build(tiny(identified, tmp_path / "run"), World()) for _ in range(2))
    _, batch, _ = next(run.train_data.batches(1))
    train_step(run.state, batch, World(), seed=0, global_batch_size=8)
    model = twin.state.model
    *_, outputs = model(model.initial_carry(batch), batch)
    expected = (outputs["preds"] == 1).float().mean().item()
    assert 0 < expected < 1
    assert run.state.metrics.fetch()["train/blank_share"] == pytest.approx(expected)


# ------------------------------------------------------------------ adding one of each to a copy


def insert(path: Path, before: str, *lines: str, instead: bool = False) -> None:
    """Insert lines before the line `before`, or replace it."""
    text = path.read_text().splitlines()
    (number,) = [i for i, line in enumerate(text) if line == before]
    path.write_text("\n".join([*text[:number], *lines, *text[number + instead :]]) + "\n")


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the repository with the page's optimizer, metric, logger and strategy: a file and a line for each."""
    root = tmp_path_factory.mktemp("extended") / "repository"
    for folder in ("config", "dataset", "evaluators", "models", "utils"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.py"):
        shutil.copy(path, root)
    files = ("models/optim/nadam.py", *re.findall(r"As `([\w/]+\.py)`", PAGE))
    for file, text in zip(files, EXAMPLES, strict=True):
        assert not (root / file).exists()
        (root / file).write_text(text)
    lines = re.findall(r"line in `(?:METRICS|LOGGERS|STRATEGIES)` is `([^`]+)`", PAGE)
    metric, logger, strategy = (f"    {line}" for line in lines)

    (choices,) = re.findall(r"`(_AnyConfig = [^`]+)`", PAGE)
    (added,) = re.findall(r"Add `([^`]+)` to the line", PAGE)
    configs_file = root / "models/optim/configs.py"
    insert(configs_file, choices, f"{choices} {added}", instead=True)
    insert(configs_file, "if TYPE_CHECKING:", "from models.optim.nadam import NAdamConfig")
    (root / "config/optimizer/nadam.yaml").write_text("# NAdam, with its own momentum_decay.\nname: nadam\n")
    metrics_file = root / "models/train/metrics.py"
    insert(metrics_file, '    "steps": Metric(lambda rows: rows.steps),', metric)
    insert(metrics_file, "import torch", "from models.train.blank_share import BLANK_SHARE")
    loggers_file = root / "utils/loggers/__init__.py"
    insert(loggers_file, '    "wandb": WandbLogger,', logger)
    base = "from utils.loggers.base import LoggedRun, Logger"
    insert(loggers_file, base, "from utils.loggers.table import TableLogger")
    strategies_file = root / "evaluators/strategies/__init__.py"
    insert(strategies_file, '    "plain": _entry("build@plain", "halt", "checker"),', strategy)
    return root


def lines_of(done) -> list[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_file_and_a_line_are_all_that_a_new_optimizer_metric_logger_and_strategy_take(extended, identified):
    settings = [*TINY, f"data_paths=[{identified}]", "checkpoint_path=run", "epochs=4", "eval_interval=2"]
    settings += ["optimizer=nadam", "optimizer.momentum_decay=0.1", "logger=[table,tensorboard]"]
    settings += ["best_metric=test/blank_share"]
    lines_of(run_python("pretrain.py", *settings, cwd=extended, timeout=600))
    logged = metrics(extended / "run")
    written = [line.split(",") for line in (extended / "run/metrics.csv").read_text().splitlines()]
    expected = [(record["step"], name) for record in logged for name in record if name != "step"]
    assert [(int(step), name) for step, name, _ in written if name != "train/seconds"] == expected
    assert {"train/blank_share", "test/blank_share"} <= {name for _, name in expected}
    assert json.loads((extended / "run/best.json").read_text())["metric"] == "test/blank_share"
    assert list((extended / "run/tensorboard").iterdir())
    again = lines_of(
        run_python("pretrain.py", *settings, "resume=auto", "epochs=8", cwd=extended, timeout=600)
    )
    assert any("continuing" in line for line in again)
    steps = [int(line.split(",")[0]) for line in (extended / "run/metrics.csv").read_text().splitlines()]
    assert steps == sorted(steps)

    lines_of(
        run_python(
            "evaluate.py", "checkpoint=run", "strategy=surest", "compile=false", "out=out", cwd=extended
        )
    )
    report = json.loads((extended / "out/report.json").read_text())
    points = report["curves"]["surest"]
    assert [point["at"] for point in points] == ["1", "2", "3"]
    assert report["metrics"]["test/exact_accuracy"] == points[-1]["exact_accuracy"]
    assert report["supervision_steps_per_puzzle"] == 3
    refused = run_python(
        "evaluate.py", "checkpoint=run", "strategy=surest", "checker=true", cwd=extended, timeout=600
    )
    assert refused.returncode == 2
    assert "checker has no effect with strategy=surest" in refused.stderr


def test_help_lists_the_added_components(extended):
    for command, words in {"pretrain.py": ("nadam", "table"), "evaluate.py": ("surest",)}.items():
        text = "\n".join(lines_of(run_python(command, "--help", cwd=extended, timeout=600)))
        assert all(word in text for word in words), command


def test_the_additions_make_no_import_cycle(extended):
    assert import_cycles(extended) == []
