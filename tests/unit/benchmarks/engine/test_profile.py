"""Profiles of steps, and the limits of the machine."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.engine.ours import OurEngine
from benchmarks.engine.profile import PARTS, StepProfile, limits
from benchmarks.engine.workload import Batch, prompts
from inference.config import EngineConfig
from inference.model.families import read_architecture


def attention_of_a_step() -> str:
    attend()
    return "done"


def attend() -> None:
    time.sleep(0.02)


def test_a_part_has_the_time_of_its_functions_and_the_rest_is_what_remains() -> None:
    profile = StepProfile(Path(__file__).parent)
    assert [profile.step(attention_of_a_step) for _ in range(4)] == ["done"] * 4
    found = profile.milliseconds()
    assert found["attention_ms"] >= 20
    assert found["products_ms"] == 0
    assert found["step_ms"] >= 20
    assert min(found[f"{part}_ms"] for part in (*PARTS, "rest")) >= 0


def test_a_function_that_its_own_part_calls_counts_once() -> None:
    profile = StepProfile(Path(__file__).parent)
    for _ in range(2):
        profile.step(silu_gate)
    found = profile.milliseconds()
    assert found["row_operations_ms"] >= 40
    assert found["rest_ms"] >= 0


def silu_gate() -> None:
    time.sleep(0.02)
    add_rms_norm()


def add_rms_norm() -> None:
    time.sleep(0.02)


def test_without_a_step_there_is_no_profile() -> None:
    with pytest.raises(ValueError, match="no step"):
        StepProfile().milliseconds()


def test_a_batch_is_answered_while_its_steps_are_taken_apart(tiny_model: Path, adapters: list[str]) -> None:
    config = EngineConfig(tiny_model, num_threads=1, kv_budget_bytes=2**20, num_adapter_slots=2, max_rank=4)
    ours = OurEngine(config)
    measured = ours.profile(**asdict(Batch(prompts("x", 3), [None, *adapters[:2]], new_tokens=5)))
    ours.close()
    assert measured.num_tokens == 15
    assert all(measured.extra[f"{part}_ms"] > 0 for part in ("step", "products", "rest"))
    assert measured.extra["adapters_mb"] > 0


def test_limits_are_positive_and_a_peak_is_no_slower_than_the_products(tiny_model: Path) -> None:
    found = limits(read_architecture(tiny_model), num_rows=4)
    assert min(found.values()) > 0
