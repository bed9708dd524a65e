"""Strict validation that is common to all configs of commands and architectures."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from config.evaluate_schema import EvaluateConfig
from config.report_schema import MemorisationConfig, ReportConfig
from config.schema import PretrainConfig
from config.solve_schema import AppConfig, SolveConfig
from export import ExportConfig
from models.architectures import ARCHITECTURES
from models.losses import ACTLossHead
from models.optim.configs import OPTIMIZERS
from utils.errors import UserError
from utils.strict_model import parse

COMMANDS = [
    PretrainConfig,
    EvaluateConfig,
    SolveConfig,
    AppConfig,
    ReportConfig,
    MemorisationConfig,
    ExportConfig,
]
SCHEMAS = {schema.__name__: schema for schema in COMMANDS}
SCHEMAS |= {f"arch={name}": architecture.Config for name, architecture in ARCHITECTURES.items()}
SCHEMAS |= {f"optimizer={name}": choice for name, choice in OPTIMIZERS.items()}
SCHEMAS["arch.loss"] = ACTLossHead.Config


def fields_of_type(schema, *types: str) -> list[str]:
    """Return the fields that accept only these JSON types and null."""
    found = []
    for name, field in schema.model_json_schema()["properties"].items():
        options = field.get("anyOf", [field])
        if {option.get("type") for option in options} - {"null"} <= set(types):
            found.append(name)
    return found


def error_messages(schema, values: dict) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        schema(**values, unknown_key=1)  # so that there is always an error
    return {str(error["loc"][0]): error["msg"] for error in caught.value.errors() if error["loc"]}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=list(SCHEMAS))
@pytest.mark.parametrize("value", [True, False])
def test_numbers_cannot_be_booleans(schema, value):
    numbers = fields_of_type(schema, "integer", "number")
    errors = error_messages(schema, dict.fromkeys(numbers, value))
    for name in numbers:
        assert errors[name] in ("Input should be a valid integer", "Input should be a valid number")


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=list(SCHEMAS))
@pytest.mark.parametrize("value", [True, False])
def test_booleans_are_accepted(schema, value):
    switches = fields_of_type(schema, "boolean")
    errors = error_messages(schema, dict.fromkeys(switches, value))
    # An architecture may fix a switch ("should be False"), but none gives it another type.
    assert not any("should be a valid" in errors.get(name, "") for name in switches)


def test_the_introspection_finds_numbers_and_switches():
    assert {"global_batch_size", "lr", "grad_clip"} <= set(
        fields_of_type(PretrainConfig, "integer", "number")
    )
    assert {"ema", "freeze_weights"} <= set(fields_of_type(PretrainConfig, "boolean"))
    assert {"expansion", "H_cycles"} <= set(fields_of_type(SCHEMAS["arch=trm"], "integer", "number"))
    assert {"lr", "ns_steps"} <= set(fields_of_type(SCHEMAS["optimizer=muon"], "integer", "number"))


def test_a_boolean_option_with_a_word_accepts_all_three():
    for value in ("auto", True, False):
        assert parse(EvaluateConfig, {"checkpoint": "run", "compile": value}).compile is value


def test_numbers_keep_their_coercions():
    config = parse(EvaluateConfig, {"checkpoint": "run", "limit": "7", "global_batch_size": 8.0})
    assert (config.limit, config.global_batch_size) == (7, 8)


def test_the_error_names_the_key():
    with pytest.raises(UserError, match="limit: true is not valid: Input should be a valid integer"):
        parse(EvaluateConfig, {"checkpoint": "run", "limit": True})
