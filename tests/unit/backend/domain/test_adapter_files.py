from __future__ import annotations

import json
from typing import Any

import pytest

from backend.domain.adapter_files import exported_from


def test_a_configuration_for_vllm_servers_names_its_adapters() -> None:
    assert exported_from(json.dumps({"r": 8, "exported_from": ["a", "b"]}).encode()) == ["a", "b"]


OTHERS = [{}, {"exported_from": None}, {"exported_from": 5}, {"exported_from": "ab"}, [1], "text", 5, None]


@pytest.mark.parametrize("content", OTHERS)
def test_a_configuration_of_another_program_names_none(content: Any) -> None:
    assert exported_from(json.dumps(content).encode()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_configuration_that_is_no_json_names_no_adapters(content: bytes) -> None:
    assert exported_from(content) == []
