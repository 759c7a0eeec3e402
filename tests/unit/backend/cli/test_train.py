from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from backend.cli import train
from backend.domain.errors import Forbidden
from backend.domain.money import AMOUNT, UNIT


class Jobs:
    """Fakes an API that estimates at most two dollars, and whose session key covers every job."""

    def __init__(self) -> None:
        self.created: list[Any] = []

    def request(self, method: str, path: str, **_options: Any) -> Any:
        assert (method, path) == ("POST", "/v1/fine_tuning/jobs/estimate")
        return {"max_charge": AMOUNT.render(2_000_000 * UNIT)}

    def post(self, _path: str, body: Any) -> Any:
        self.created.append(body)
        return {"id": "ftjob-1", "status": "queued", "payment": None}


def create(jobs: Jobs, max_cost: str | None) -> None:
    actor = SimpleNamespace(connect=lambda: nullcontext(jobs))
    train.create.__wrapped__("0x12", max_cost=max_cost, actor=actor)  # type: ignore[attr-defined]


def test_a_job_that_may_cost_more_than_the_creator_allows_is_not_created() -> None:
    jobs = Jobs()
    with pytest.raises(Forbidden, match=r"may cost 2 dollars, more than 1\.5 dollars; not created"):
        create(jobs, "1.5")
    assert not jobs.created


@pytest.mark.parametrize("max_cost", [None, "2"])
def test_a_job_within_what_the_creator_allows_is_created(max_cost: str | None) -> None:
    jobs = Jobs()
    create(jobs, max_cost)
    assert len(jobs.created) == 1
