"""A base on an own engine and one on a vLLM server under `loraledger up`, with the settings of the guide."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest
from openai import InternalServerError

from backend.cli.operator.demo.questions import Question, ask_all
from backend.client.payments import create_key, deposit
from backend.domain.attribution import DISTILLED_ERROR_METHOD, ERROR_METHOD
from backend.engine.vllm_request import NOT_SERVED
from backend.loopback import free_port
from tests.e2e.test_several_bases import (
    CREATOR,
    are_answered,
    await_all_bases,
    await_fault,
    train,
)
from tests.e2e.test_stack import CONSUMER, DEPOSIT_UNITS, running, scrape
from tests.fixtures_engine import make_model
from tests.support.vllm_server import POINT_AMONG_SEVERAL, page_settings, page_variables, vllm_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.test_stack import Stack

pytestmark = [pytest.mark.deep, pytest.mark.timeout(3600)]
OWN, ELSEWHERE = "own", "elsewhere"


def test_a_base_on_vllm_is_served_paid_and_attributed_beside_one_on_an_own_engine(tmp_path: Path) -> None:
    own, served = make_model(tmp_path / OWN), make_model(tmp_path / ELSEWHERE, head_dim=32)
    adapters, port, dtype = tmp_path / "adapters", free_port(), "float32"
    variables = page_variables(served, adapters, dtype) | {"PORT": str(port), "OTHER": str(own)}
    settings = page_settings(POINT_AMONG_SEVERAL, variables)
    settings |= {"LORALEDGER_ENGINE_THREADS": "1", "LORALEDGER_TRAINER_THREADS": "1"}
    with (
        running(tmp_path / "home", tmp_path / "up.log", **settings) as stack,
        stack.market(CONSUMER) as payer,
        stack.market(CREATOR) as creator,
    ):
        deposit(payer, DEPOSIT_UNITS)
        deposit(creator, DEPOSIT_UNITS)
        key = create_key(payer, "fleet")
        assert [name for name in stack.facts["processes"] if name.startswith("engine")] == ["engine"]
        _answers_without_the_server(stack, key)
        trained = train(stack, creator, [OWN, ELSEWHERE])
        with vllm_server(served, adapters / ELSEWHERE, dtype, tmp_path / "vllm.log", port):
            await_all_bases(stack)
            assert "engine    ok" in stack.run("doctor")
            receipts = are_answered(stack, payer, key, [OWN, ELSEWHERE, *trained])
            assert receipts[trained[1]]["method"] in {DISTILLED_ERROR_METHOD, ERROR_METHOD}
            assert receipts[trained[0]]["slices"][0]["shares"]
            assert receipts[trained[1]]["slices"][0]["shares"]
            _is_in_the_catalogue(stack)
            assert _bases_up(stack) == {OWN: 1, ELSEWHERE: 1}
        _answers_without_the_server(stack, key)
        assert _bases_up(stack) == {OWN: 1, ELSEWHERE: 0}
        assert all(batch["is_right"] for batch in json.loads(stack.run("audit", "--json")))


def _answers_without_the_server(stack: Stack, key: str) -> None:
    """The market is degraded: requests for the base of the server get 503, others are answered."""
    await_fault(stack, ELSEWHERE)
    (answer,) = ask_all(stack.facts["api"], key, [Question(OWN, "What is item 4?", 8)])
    assert answer.charge > 0
    with pytest.raises(InternalServerError) as refused:
        ask_all(stack.facts["api"], key, [Question(ELSEWHERE, "What is item 4?", 8)])
    assert refused.value.status_code == 503
    assert refused.value.body["code"] == "engine_unavailable"


def _is_in_the_catalogue(stack: Stack) -> None:
    """With what each base's engines refuse, and with its own prices and adapters."""
    operator = httpx.get(f"{stack.facts['api']}/v1/operator").json()
    assert [(base["name"], base["not_served"]) for base in operator["bases"]] == [
        (OWN, []),
        (ELSEWHERE, list(NOT_SERVED)),
    ]


def _bases_up(stack: Stack) -> dict[str, float]:
    """By base whether its engine responds; metrics of those that do have the label `base`."""
    found = scrape(stack)
    up = {sample.labels["base"]: sample.value for sample in found["loraledger_base_up"]}
    measured = {sample.labels["base"] for sample in found["vllm:generation_tokens"]}
    assert measured == {base for base, value in up.items() if value}
    return up
