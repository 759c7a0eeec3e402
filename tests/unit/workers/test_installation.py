"""How the worker of an installation is wired."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.settings import Settings
from workers.installation import Workers


@pytest.mark.parametrize(
    ("chain_id", "stated", "arithmetic"),
    [
        (LOCAL_CHAIN_ID, None, "bfloat16"),
        (LOCAL_CHAIN_ID, "float32", "float32"),
        (8453, None, "float32"),
        (8453, "bfloat16", "bfloat16"),
    ],
)
def test_indices_can_be_verified_wherever_money_is_real_unless_a_setting_says_otherwise(
    chain_id: int, stated: Any, arithmetic: str
) -> None:
    deployment = SimpleNamespace(chain_id=chain_id)
    installation: Any = SimpleNamespace(settings=Settings(index_arithmetic=stated), deployment=deployment)
    assert Workers(installation)._arithmetic == arithmetic
