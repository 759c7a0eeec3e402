from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from backend.cli.operator import membership
from backend.client import waiting
from tests.support.membership import FakeInstallation

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def installation(monkeypatch: pytest.MonkeyPatch) -> FakeInstallation:
    made = FakeInstallation()

    @contextmanager
    def opened() -> Iterator[Any]:
        yield made

    monkeypatch.setattr(membership, "open_installation", opened)
    monkeypatch.setattr(membership, "LOCK_POLL_SECONDS", 0)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0)

    return made
