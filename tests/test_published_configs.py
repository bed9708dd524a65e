"""Published all_config.yaml files converted to our keys: class identifiers, keys, and errors."""

from __future__ import annotations

import pytest
from trained_folders import PUBLISHED_TOP, TINY_ARCH

from config.published import REMOVED, parse_run_config
from config.schema import PretrainConfig
from models.registry import PUBLISHED_NAMES, build_model
from utils.errors import UserError
from utils.strict_model import parse

LOSS = {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"}
# As in the published configs of each class.
TRM = {
    "H_cycles": 3,
    "H_layers": 0,
    "L_cycles": 6,
    "L_layers": 2,
    "expansion": 4,
    "forward_dtype": "bfloat16",
    "halt_exploration_prob": 0.1,
    "halt_max_steps": 16,
    "hidden_size": 512,
    "loss": LOSS,
    "mlp_t": False,
    "no_ACT_continue": True,
    "num_heads": 8,
    "pos_encodings": "rope",
    "puzzle_emb_len": 16,
    "puzzle_emb_ndim": 512,
}
SIZES = {"seq_len": 81, "vocab_size": 11, "num_puzzle_identifiers": 1}


def published(name: str, **arch) -> dict:
    return PUBLISHED_TOP | {"arch": TRM | {"name": name} | arch}


@pytest.mark.parametrize("identifier", PUBLISHED_NAMES)
def test_every_published_class_identifier_maps_to_an_architecture(identifier):
    config = parse_run_config(published(identifier, H_layers=2, hidden_size=64, puzzle_emb_ndim=64), "FILE")
    assert config.arch["name"] == PUBLISHED_NAMES[identifier]
    build_model(config.arch, **SIZES)


def test_settings_are_unchanged():
    config = parse_run_config(published("recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1"), "FILE")
    assert config.arch == TRM | {"name": "trm"}
    assert {key: config.values[key] for key in ("lr", "epochs", "ema", "global_batch_size")} == {
        key: PUBLISHED_TOP[key] for key in ("lr", "epochs", "ema", "global_batch_size")
    }


def test_our_own_config_is_unchanged():
    ours = parse(
        PretrainConfig, PUBLISHED_TOP | {"arch": TINY_ARCH | {"loss": LOSS, "halting": None}}
    ).model_dump()
    assert parse_run_config(ours, "FILE").values == ours


@pytest.mark.parametrize(("key", "neutral"), REMOVED.items())
def test_a_run_with_a_removed_option_opens_unless_it_used_the_option(key, neutral):
    ours = parse(PretrainConfig, PUBLISHED_TOP | {"arch": TINY_ARCH | {"loss": LOSS}}).model_dump()
    assert parse_run_config(ours | {key: neutral}, "FILE").values == ours
    with pytest.raises(UserError, match=rf"(?s)FILE: .*{key}: unknown key"):
        parse_run_config(ours | {key: 7}, "FILE")


def test_data_sizes_are_separated_from_settings():
    name = "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1"
    config = parse_run_config(published(name, batch_size=768, causal=False, **SIZES), "FILE")
    assert config.sizes == SIZES
    assert config.arch == TRM | {"name": "trm"}


@pytest.mark.parametrize(
    ("identifier", "key", "value"),
    [
        ("recursive_reasoning.hrm@HierarchicalReasoningModel_ACTV1", "puzzle_emb_len", 16),
        ("recursive_reasoning.transformers_baseline@Model_ACTV2", "puzzle_emb_len", 16),
        ("recursive_reasoning.transformers_baseline@Model_ACTV2", "mlp_t", True),
        ("recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1", "act_inference", True),
    ],
)
def test_keys_ignored_by_a_published_class_have_no_effect(identifier, key, value):
    config = parse_run_config(published(identifier, H_layers=2, **{key: value}), "FILE")
    assert key not in config.arch


def test_the_single_data_path_of_older_configs_becomes_a_list():
    values = published("hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1", H_layers=4)
    del values["data_paths"]
    config = parse_run_config(values | {"data_path": "data/sudoku"}, "FILE")
    assert config.values["data_paths"] == ["data/sudoku"]
    assert config.arch["name"] == "hrm"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            published("trm") | {"lr_warmup": 3},
            r"(?s)FILE.*lr_warmup: unknown key; nearest valid keys: lr_warmup_steps",
        ),
        (
            published("trm", hiden_size=3),
            r"(?s)FILE.*arch.hiden_size: unknown key; nearest .*arch.hidden_size",
        ),
        (published("recursive_reasoning.trn@Model"), "there is no module models.recursive_reasoning.trn"),
        (published("trn"), "did you mean trm"),
        (published("hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1", causal=True), "causal"),
        (published("trm", seq_len="many"), "arch.seq_len is 'many'"),
        (published("trm", pos_encodings="roep"), "arch.pos_encodings"),
        ({"lr": 1}, "no arch.name"),
    ],
)
def test_unknown_keys_and_names_are_errors_that_name_the_file(values, message):
    with pytest.raises(UserError, match=message):
        parse_run_config(values, "FILE")
