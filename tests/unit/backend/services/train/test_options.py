from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.training import (
    LINEAR_LAYERS,
    MAX_BATCH_TOKENS,
    TrainingConfig,
)
from backend.services.train.options import InvalidConfig, parse_config


def test_options_default_and_are_kept_as_given() -> None:
    assert parse_config({}) == TrainingConfig()
    config = parse_config({"rank": 4, "epochs": 3, "targets": ["v_proj", "q_proj"], "variant": "rslora"})
    assert (config.rank, config.epochs, config.variant) == (4, 3.0, "rslora")
    assert config.targets == ("q_proj", "v_proj")
    assert parse_config({"targets": "all-linear"}).targets == LINEAR_LAYERS


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rank", 0),
        ("rank", 129),
        ("rank", 8.0),
        ("rank", True),
        ("rank", "8"),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", None),
        ("dropout", 0.9),
        ("epochs", float("inf")),
        ("eval_fraction", 0.0),
        ("max_length", 8),
        ("seed", -1),
        ("seed", 2**32),
        ("variant", "qlora"),
        ("steps", -1),
        ("packing", 1),
        ("loss_on", "prompts"),
        ("scheduler", ["cosine"]),
        ("targets", []),
        ("targets", "q_proj"),
        ("targets", ["q_proj", "embed_tokens"]),
        ("targets", [["q_proj"]]),
        ("warmup", 0.1),
        ("early_stopping", -1),
        ("parent", "docs"),
        ("parent", "0x" + "AB" * 32),
        ("parent", 7),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(InvalidConfig) as refusal:
        parse_config({option: value})
    assert refusal.value.param == option
    assert option in refusal.value.message


def test_openais_names_stand_for_ours() -> None:
    theirs = {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 0.5}
    expected = parse_config({"epochs": 3, "learning_rate": TrainingConfig().learning_rate / 2})
    assert parse_config(theirs) == expected


@pytest.mark.parametrize(
    "raw",
    [
        {"n_epochs": 1, "epochs": 1},
        {"learning_rate_multiplier": 1, "learning_rate": 0.001},
        {"learning_rate_multiplier": "fast"},
        {"learning_rate_multiplier": True},
        {"learning_rate_multiplier": 10**400},
    ],
)
def test_openais_names_are_checked_too(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig) as refusal:
        parse_config(raw)
    assert refusal.value.param == next(iter(raw))


def test_a_batch_that_no_machine_holds_is_refused() -> None:
    assert parse_config({"batch_size": 64, "max_length": MAX_BATCH_TOKENS // 64})
    with pytest.raises(InvalidConfig, match=str(MAX_BATCH_TOKENS)) as refusal:
        parse_config({"batch_size": 65, "max_length": MAX_BATCH_TOKENS // 64})
    assert refusal.value.param == "batch_size"


@given(
    st.dictionaries(
        st.text(max_size=12) | st.sampled_from(["rank", "targets", "seed"]), st.integers() | st.text()
    )
)
def test_any_options_either_parse_or_are_refused(raw: dict[str, Any]) -> None:
    try:
        assert isinstance(parse_config(raw), TrainingConfig)
    except InvalidConfig as refusal:
        assert refusal.param in raw  # noqa: PT017
