"""docs/extending.md: files, names and lines exist, and its examples work."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import get_args

import pytest
import torch
from training_runs import ROOT, tiny

from config.evaluate_schema import STRATEGIES
from evaluators.strategies.build import BUILDERS
from models.losses import ACTLossHead
from models.optim import configs
from models.train.metrics import METRICS, Metric
from models.train.step import train_step
from training_run import build
from utils.distributed import World

PAGE = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_files_exist_and_define_the_documented_names():
    paths = [path for path in re.findall(r"`([\w./]+\.(?:py|yaml))`", PAGE) if "NAME" not in path]
    new = {"config/optimizer/nadam.yaml"}
    assert [path for path in paths if path not in new and not (ROOT / path).exists()] == []
    placed = re.findall(r"`(\w+)` in `([\w./]+)`", PAGE)
    assert len(placed) >= 5
    for name, path in placed:
        assert re.search(rf"^{name}\b", (ROOT / path).read_text(), re.MULTILINE), (name, path)


def test_the_documented_line_of_optimizers_is_in_the_file():
    (line,) = re.findall(r"`(_AnyConfig = [^`]+)`", PAGE)
    assert line in (ROOT / "models/optim/configs.py").read_text().splitlines()
    assert list(configs.OPTIMIZERS.values()) == list(get_args(configs._AnyConfig))


def test_every_strategy_has_a_builder_and_declares_its_options():
    assert BUILDERS.keys() == STRATEGIES.keys()


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
    monkeypatch.setattr(ACTLossHead, "metrics", dict(METRICS))
    exec(EXAMPLES[1], {"METRICS": ACTLossHead.metrics, "Metric": Metric})
    run, twin = (build(tiny(identified, tmp_path / "run"), World()) for _ in range(2))
    _, batch, _ = next(run.train_data.batches(1))
    train_step(run.state, batch, World(), seed=0, global_batch_size=8)
    model = twin.state.model
    *_, outputs = model(model.initial_carry(batch), batch)
    expected = (outputs["preds"] == 1).float().mean().item()
    assert 0 < expected < 1
    assert run.state.metrics.fetch()["train/blank_share"] == pytest.approx(expected)
