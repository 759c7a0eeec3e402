from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from backend.cli import train
from backend.domain.errors import Forbidden
from backend.domain.money import AMOUNT, PRICE, UNIT


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


def test_a_hyperparameter_that_is_no_json_is_a_string() -> None:
    nested = "[" * 100_000
    assert [train._parse_value(text) for text in ("4", "[1]", "linear", nested)] == [4, [1], "linear", nested]


@pytest.mark.parametrize(("num_tokens", "is_stated"), [(29, True), (324, False)])
def test_an_estimate_says_that_less_than_an_epoch_costs_an_epoch(num_tokens: int, is_stated: bool) -> None:
    counts = dict.fromkeys(("num_train_rows", "num_eval_rows", "num_left_out", "num_steps"), 1)
    tokens = {"num_tokens": num_tokens, "num_trained_tokens": 9, "num_charged_tokens": 324}
    amounts = {name: AMOUNT.render(UNIT) for name in ("charge", "max_charge")}
    found = {**counts, **tokens, **amounts, "price": PRICE.render(400_000), "seconds": None}
    lines = list(train._estimate_lines(found))
    [cost] = [line for line in lines if "324 tokens" in line and line.startswith("about")]
    assert ("at least one epoch is charged" in cost) is is_stated
