"""Memory of judging, which the limit of batch data relies on."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from backend.domain.batch_data import decode
from backend.services.audit.published import MEMORY_FACTOR, memory_of
from benchmarks.judging import judge_file, publish

if TYPE_CHECKING:
    from pathlib import Path


SHAPES = [(40, 4, 256), pytest.param(200, 1, 256, marks=pytest.mark.deep), (400, 4, 1), (500, 1, 1)]
"""Receipts, slices of each, and shares of each slice."""


@pytest.mark.parametrize(("receipts", "slices", "shares"), SHAPES)
def test_memory_of_judging_stays_below_what_is_reserved(
    tmp_path: Path, receipts: int, slices: int, shares: int
) -> None:
    path = tmp_path / "batch.jsonl"
    header, spans = publish(path, receipts, slices, shares)
    for _ in range(2):  # what is allocated once for the process is not counted
        tracemalloc.start()
        judge_file(path, header, spans, shares)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    _, decoded = decode(path.read_bytes())
    assert peak < MEMORY_FACTOR * path.stat().st_size
    assert peak < memory_of(decoded)
