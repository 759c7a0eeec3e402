from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.settlement_harness import SettlementHarness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SettlementHarness]:
    harness = SettlementHarness(tmp_path)
    yield harness
    harness.database.close()
