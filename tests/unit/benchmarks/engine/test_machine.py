"""Whose CPU time it was."""

from __future__ import annotations

import os

import pytest

from benchmarks.engine.machine import Usage, describe


def test_what_others_took_is_their_share_of_all_cores() -> None:
    cores = os.cpu_count() or 1
    before = Usage(at=10.0, machine_seconds=100.0, process_seconds=5.0)
    after = Usage(at=12.0, machine_seconds=100.0 + 1.5 * cores, process_seconds=5.0 + cores)
    assert after.foreign_share_since(before) == pytest.approx(0.25)


def test_rounding_of_clocks_never_makes_a_share_negative() -> None:
    before = Usage(at=10.0, machine_seconds=100.0, process_seconds=5.0)
    assert Usage(11.0, 100.4, 5.5).foreign_share_since(before) == 0.0
    assert before.foreign_share_since(before) == 0.0


def test_usage_of_a_process_that_computes_grows_and_so_does_the_machines() -> None:
    before = now = Usage.now(os.getpid())
    while now.process_seconds == before.process_seconds or now.machine_seconds == before.machine_seconds:
        now = Usage.now(os.getpid())
    assert now.process_seconds > before.process_seconds
    assert now.machine_seconds > before.machine_seconds


def test_the_machine_is_described() -> None:
    told = describe()
    assert told["cpu"]
    assert told["num_cores"] == os.cpu_count()
    assert told["memory_gib"] > 0
