"""Metrics of the API's requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import REGISTRY

from backend.domain.money import AMOUNT
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_requests_are_counted_by_route_and_never_by_path(api: Api) -> None:
    route = {"method": "GET", "route": "/v1/channels/{channel}", "status": "404"}
    before = counted("loraledger_http_requests_total", **route)
    with api.http() as http:
        for name in ("0x1", "0x2"):
            http.get(f"/v1/channels/{name}")
        nowhere = {"method": "GET", "route": "none", "status": "404"}
        lost = counted("loraledger_http_requests_total", **nowhere)
        http.get("/v1/no/such/path")
        assert counted("loraledger_http_requests_total", **nowhere) == lost + 1
    assert counted("loraledger_http_requests_total", **route) == before + 2


def test_an_answer_counts_with_what_it_charges(api: Api) -> None:
    names = ("loraledger_answers_total", "loraledger_charged_units_total")
    before = [counted(name) for name in names]
    tokens = counted("loraledger_charged_tokens_total", kind="completion")
    with api.http() as http:
        answer = http.post("/v1/completions", json={"model": "tiny", "prompt": "a b"}).json()
    # Answers are counted in a task that may run after the response is sent.
    wait_for(lambda: counted(names[0]) > before[0])
    assert counted(names[0]) == before[0] + 1
    assert counted(names[1]) == before[1] + AMOUNT.parse(answer["loraledger"]["charge"])
    spent = answer["usage"]["completion_tokens"]
    assert counted("loraledger_charged_tokens_total", kind="completion") == tokens + spent


def test_errors_are_counted_by_their_code(api: Api) -> None:
    before = counted("loraledger_errors_total", code="unknown_parameter")
    with api.http() as http:
        assert (
            http.post("/v1/completions", json={"model": "tiny", "prompt": "a", "promt": "a"}).status_code
            == 400
        )
    assert counted("loraledger_errors_total", code="unknown_parameter") == before + 1
