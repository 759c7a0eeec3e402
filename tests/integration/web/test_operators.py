"""Operators, their batches and disputes in words; and the advice to this installation's operator."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
from playwright.sync_api import expect

from backend.domain.disputes.witnesses import Fault, Tree
from backend.domain.registries import Operator
from backend.domain.settlement import BatchState, Conviction
from backend.engine.metric_texts import checked
from tests.integration.api.test_routers import a_batch
from tests.integration.web.test_receipt import answered
from tests.support.market import some_account, some_demand, some_hash
from tests.support.page_guide import Guide
from tools.local_market import OPERATOR, PAYERS

if TYPE_CHECKING:
    from collections.abc import Collection

    import pytest
    from playwright.sync_api import Page

    from backend.domain.ids import Account
    from tests.integration.api.conftest import Api
    from tests.support.page_market import PageMarket


def test_a_dispute_is_explained_in_words(api: Api) -> None:
    view, account = api.installation.view, some_account("operator")
    view.operator_list.append(Operator(account, "https://one.example", (some_account("key"),), 7_000_000))
    wrong = some_hash("wrong")
    conviction = Conviction(
        2, wrong, "proveBadReceipt", some_account("challenger"), Fault.PRICE, 3, some_hash("proof"), 9
    )
    fallen = {"state": BatchState.VOID, "conviction": conviction, "is_refunded": True}
    held = a_batch(4, hash=some_hash("held"))
    view.committed += [
        a_batch(1, state=BatchState.FINAL),
        a_batch(2, hash=wrong, **fallen),
        a_batch(3, hash=some_hash("next"), **fallen),
        held,
    ]
    view.demanded.append(some_demand(account, held.hash))
    html = " ".join(httpx.get(f"{api.url}/o/{account}").text.split())
    assert "a receipt in it is wrong: its charge is not tokens times the registered prices" in html
    assert "Fell with batch" in html
    assert "1 demand must be answered by" in html
    assert "not stored here" in html
    listed = httpx.get(f"{api.url}/operators").text
    assert "https://one.example" in listed
    assert "pending" in listed
    assert httpx.get(f"{api.url}/o/{some_account('nobody')}").status_code == 404


def test_the_list_of_operators_reads_the_database_outside_of_the_event_loop(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, loops = api.installation.view, []
    read = view.open_totals

    def open_totals(operators: Collection[Account]) -> dict[Account, int]:
        with suppress(RuntimeError):
            loops.append(asyncio.get_running_loop())
        return read(operators)

    monkeypatch.setattr(view, "open_totals", open_totals)
    assert httpx.get(f"{api.url}/operators").status_code == 200
    assert loops == []


def test_the_operator_sees_what_is_at_risk_and_what_to_do(page: Page, market: PageMarket) -> None:
    guide, installation = Guide(page, "Operating"), market.operator.installation
    market.enter(page, OPERATOR)
    page.goto(market.url)
    guide.step("Operators").click()
    guide.step("Operate").click()
    guide.end()
    expect(page.get_by_role("heading", name="To do")).to_be_visible()
    expect(page.locator("#overview")).to_contain_text("Check that loraledger engine, or the base model")
    expect(page.locator("#overview")).to_contain_text("in 0 receipts")
    answered(market.market, installation.database)
    page.reload()
    expect(page.locator("#overview")).to_contain_text("in 1 receipt, the oldest of")

    installation.settler.run_once(is_forced=True)
    market.operator.pump()
    with installation.database.read() as tx:
        (batch,) = tx.chain.batches(OPERATOR.account)
    page.reload()
    row = page.get_by_role("row", name="Batch 1")
    expect(row).to_contain_text("pending")
    market.market.demand(PAYERS[0], batch.header, Tree.RECEIPTS, [0])
    market.operator.pump()
    page.reload()
    expect(row).to_contain_text("1 demand, answer by")
    expect(page.locator(".notice").first).to_contain_text("its account can pay for gas: it answers them")
    page.goto(f"{market.url}/o/{OPERATOR.account}")
    expect(page.get_by_role("link", name="stored here")).to_be_visible()


def test_metrics_that_cannot_be_read_leave_the_rest_of_the_page(
    page: Page, market: PageMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def metrics(_: float) -> str:
        return checked("<html>", "the engine")

    [engine] = market.operator.installation.engines.by_base.values()
    monkeypatch.setattr(engine, "metrics", metrics)
    market.enter(page, OPERATOR)
    page.goto(f"{market.url}/operate")
    expect(page.locator(".notice").first).to_contain_text(
        "not in Prometheus' text format; line 1 is '<html>'"
    )
    expect(page.locator("#overview")).to_contain_text("its metrics cannot be read")
    expect(page.locator("#money")).to_be_visible()


def test_the_operators_page_is_for_the_operator_alone(api: Api, page: Page, as_payer: None) -> None:
    assert "Sign in" in httpx.get(f"{api.url}/operate").text
    assert page.request.get(f"{api.url}/operate").status == 403
