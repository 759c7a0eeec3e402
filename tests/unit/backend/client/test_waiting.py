"""Polling through outages: `backend.client.waiting`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.client import waiting
from backend.client.errors import ApiError
from backend.client.waiting import wait_through_outages
from backend.domain.errors import DiskFull, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

BUSY = ApiError("the database is away", details={"status": 503, "code": "database_unavailable"})
REFUSED = ApiError("no such job", details={"status": 404, "code": "not_found"})


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0)


def probe(*outcomes: Exception | str | None) -> Callable[[], str | None]:
    remaining = list(outcomes)

    def ask() -> str | None:
        outcome = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return ask


def test_each_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    outcomes = probe(Unavailable("first"), BUSY, None, Unavailable("second"), Unavailable("second"), "done")
    assert wait_through_outages(outcomes, "it", 60) == "done"
    assert caplog.messages == ["first; still waiting", "second; still waiting"]


def test_an_outage_that_lasts_is_named_at_the_end() -> None:
    with pytest.raises(Unavailable, match="waited 0 s for it: the database is away"):
        wait_through_outages(probe(BUSY), "it", 0)


def test_a_wait_that_ends_without_an_outage_names_none() -> None:
    with pytest.raises(Unavailable, match=r"for it$"):
        wait_through_outages(probe(BUSY, None), "it", 0.05)


@pytest.mark.parametrize("error", [REFUSED, DiskFull("the disk is full")])
def test_what_does_not_pass_ends_the_wait(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        wait_through_outages(probe(None, error), "it", 60)
