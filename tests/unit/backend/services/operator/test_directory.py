from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from backend.api.schemas.registry import OperatorCardView
from backend.domain.errors import NotFound
from backend.domain.money import PRICE
from backend.domain.registries import Operator
from backend.ports.engine import EngineState
from backend.ports.outbound import Unreachable
from backend.services.operator.directory import REFRESH_SECONDS, Card, Operators
from tests.support.market import some_account, some_hash
from tests.support.scripted_installation import TRAINING_PRICE, ScriptedInstallation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.db.unit_of_work import Database

OTHER = some_account("other")


class FakeOutbound:
    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []

    def get(self, url: str, *, accept: str, max_bytes: int, seconds: float) -> Iterator[bytes]:
        self.asked.append(url)
        if url not in self.answers:
            raise Unreachable("no connection")
        yield self.answers[url]


class DirectoryHarness:
    def __init__(self, folder: Path, database: Database) -> None:
        self.installation = ScriptedInstallation(folder, database)
        self.outbound, self.now = FakeOutbound(), 0.0
        own = self.installation.operator
        self.operators = Operators(
            self.installation.db,
            self.outbound,
            self.installation.catalogue,
            own,
            lambda: self.now,
        )
        self.settle(own, "https://own")
        self.settle(OTHER, "https://other/")

    def settle(self, account: Any, endpoint: str) -> None:
        self.installation.view.operator_list.append(Operator(account, endpoint, (), 1))

    def answer(self, card: Any) -> None:
        self.outbound.answers["https://other/v1/operator"] = (
            card if isinstance(card, bytes) else msgspec.json.encode(card)
        )

    def standing(self) -> Any:
        return self.operators.get(OTHER, {})[1]


@pytest.fixture
def harness(tmp_path: Path, sqlite_database: Database) -> DirectoryHarness:
    return DirectoryHarness(tmp_path, sqlite_database)


def test_an_operator_is_polled_at_intervals_and_its_uptime_counted(harness: DirectoryHarness) -> None:
    card = Card(OTHER, [], [some_hash("adapter")])
    harness.answer(card)
    for _ in range(2):
        assert harness.standing().card == card
    assert harness.outbound.asked == ["https://other/v1/operator"]
    harness.outbound.answers.clear()
    harness.now += REFRESH_SECONDS
    harness.standing()
    harness.operators._pool.shutdown()  # waits for the second request
    found = harness.standing()
    assert (found.card, found.latency_ms, found.uptime_ppm) == (None, None, 500_000)


@pytest.mark.parametrize(
    "card",
    [
        Card(some_account("another operator"), [], []),
        b"<html>",
        b"[" * 100_000,
        b'{"x":' * 100_000,
        b'{"account": 7, "bases": [], "active_adapters": []}',
        msgspec.json.encode({"account": OTHER, "bases": [], "active_adapters": ["<script>"]}),
        msgspec.json.encode({"account": OTHER, "bases": [], "active_adapters": [some_hash("a")] * 10_001}),
    ],
)
def test_an_invalid_operator_card_counts_as_no_answer(harness: DirectoryHarness, card: Any) -> None:
    harness.answer(card)
    found = harness.standing()
    assert (found.card, found.uptime_ppm) == (None, 0)


def test_minimum_prices_of_a_card_are_optional(harness: DirectoryHarness) -> None:
    base = {"digest": some_hash("base"), "name": "tiny"}
    harness.answer(msgspec.json.encode({"account": OTHER, "bases": [base], "active_adapters": []}))
    [offer] = harness.standing().card.bases
    assert (offer.min_prompt_price, offer.training_price) == (None, None)


def test_a_card_is_read_as_the_api_serves_it(harness: DirectoryHarness) -> None:
    base = harness.installation.base.digest
    own = harness.operators.card({base: EngineState(frozenset({some_hash("adapter")}), 512, "int8")})
    served = OperatorCardView.model_validate(own).model_dump(mode="json") | {"account": OTHER}
    [offer] = served["bases"]
    assert offer["training_price"] == PRICE.render(TRAINING_PRICE)
    assert (offer["not_served"], offer["weight_format"]) == ([], "int8")
    harness.answer(msgspec.json.encode(served))
    assert harness.standing().card == msgspec.structs.replace(own, account=OTHER)


@pytest.mark.parametrize(
    "price", [5, "x", {}, {"usd_per_million_tokens": "-1"}, {"micro_units_per_token": 5}]
)
def test_a_card_with_an_invalid_price_counts_as_no_answer(harness: DirectoryHarness, price: Any) -> None:
    base = {"digest": some_hash("base"), "name": "tiny", "prompt_price": price}
    harness.answer(msgspec.json.encode({"account": OTHER, "bases": [base], "active_adapters": []}))
    assert harness.standing().card is None


def test_our_own_status_needs_no_request(harness: DirectoryHarness) -> None:
    adapter = some_hash("adapter")
    page = harness.operators.registered(
        {harness.installation.base.digest: EngineState(frozenset({adapter}))}, None, 2
    )
    own, _ = (found for _, found in page)
    assert own.card.active_adapters == [adapter]
    assert [(b.name, b.prompt_price, b.completion_price) for b in own.card.bases] == [("tiny", 1, 2)]
    assert [base.training_price for base in own.card.bases] == [TRAINING_PRICE]
    assert [(b.min_prompt_price, b.min_completion_price) for b in own.card.bases] == [(1, 1)]
    assert harness.outbound.asked == ["https://other/v1/operator"]


def test_only_the_operators_of_a_page_are_asked(harness: DirectoryHarness) -> None:
    for number in range(3):
        harness.settle(some_account(f"more {number}"), f"https://more-{number}")
    page = harness.operators.registered({}, OTHER, 2)
    assert [operator.endpoint for operator, _ in page] == ["https://more-0", "https://more-1"]
    assert sorted(harness.outbound.asked) == [f"https://more-{number}/v1/operator" for number in range(2)]
    with pytest.raises(NotFound, match="is registered"):
        harness.operators.get(some_account("nobody"), {})


def test_an_operator_with_a_new_endpoint_has_no_history(harness: DirectoryHarness) -> None:
    assert harness.standing().uptime_ppm == 0
    view = harness.installation.view
    view.operator_list[-1] = Operator(OTHER, "https://moved", (), 1)
    harness.outbound.answers["https://moved/v1/operator"] = msgspec.json.encode(Card(OTHER, [], []))
    assert harness.standing().uptime_ppm == 1_000_000
