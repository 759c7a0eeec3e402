from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.town import Town

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    town = Town(tmp_path)
    yield town
    town.database.close()
