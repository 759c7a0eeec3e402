"""The playground: answers of adapters, base and blend side by side, each with its bill."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest
from playwright.sync_api import expect

from backend.domain.content import cid_of
from tests.support.market import some_hash
from tests.support.page_guide import Guide

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.integration.api.conftest import Api


def second_adapter(api: Api) -> str:
    installation = api.installation
    first = installation.catalogue.resolve(installation.version).record
    other = replace(first, name="other", adapter_digest=some_hash("other"), cid_digest=some_hash("o folder"))
    installation.store.folders[cid_of(other.cid_digest)] = lambda _: None
    return installation.catalogue.resolve(installation.view.register(other)).name.partition("@")[0]


def test_a_payer_compares_adapters_base_and_blend_with_their_bills(
    page: Page, api: Api, as_payer: None
) -> None:
    guide = Guide(page, "Comparing adapters")
    other = second_adapter(api)
    docs = api.installation.catalogue.resolve(api.installation.version).name.partition("@")[0]
    api.installation.record_rows(5)
    page.goto(f"{api.url}/m/{docs}")
    guide.step("Try it in the playground").click()
    expect(page.get_by_label("One adapter")).to_have_value(docs)
    page.get_by_label("Another adapter").select_option(other)
    page.get_by_label("Prompt").fill("Say hello.")
    page.get_by_label("Ask a blend of both").check()
    page.get_by_label("Blend:").fill("70")
    guide.step("Ask").click()
    columns = page.locator("[data-answer]:visible")
    expect(columns).to_have_count(4)
    for column in columns.all():
        expect(column.locator("[data-said]")).to_have_text("Hello there, world.")
        expect(column.get_by_role("link", name="Receipt")).to_be_visible()
    blend = page.locator("[data-answer=blend]")
    expect(blend.get_by_role("heading")).to_have_text("70 % of one, 30 % of the other")
    expect(blend).to_contain_text("not matching text")
    expect(page.locator("[data-answer=left] .share")).to_have_count(3)
    expect(page.locator("[data-answer=left] [data-own]")).to_contain_text("such answers an hour")
    expect(page.locator("[data-answer=base]")).to_contain_text("It pays no contributor")
    expect(guide.step("Receipt")).to_have_attribute("href", re.compile("^/r/0x"))
    guide.end()


def test_a_refused_answer_says_why_next_to_the_others(
    page: Page, api: Api, as_payer: None, reports: list[str]
) -> None:
    page.goto(f"{api.url}/play?right=nobody/nothing")
    page.get_by_label("Prompt").fill("Say hello.")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("[data-answer=right] [role=alert]")).to_contain_text("nobody/nothing")
    expect(page.locator("[data-answer=left]").get_by_role("link", name="Receipt")).to_be_visible()
    assert all("status of 404" in text for text in reports)
    reports.clear()


@pytest.mark.deep
def test_a_stopped_answer_is_charged_for_what_was_generated(page: Page, api: Api, as_payer: None) -> None:
    api.installation.engine.waits_after = 2
    page.goto(f"{api.url}/play")
    page.get_by_label("Prompt").fill("Say hello.")
    page.get_by_label("Ask the base too").uncheck()
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("[data-answer=left] [data-said]")).to_have_text("Hello there")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-answer=left] [role=alert]")).to_contain_text("until then is charged")
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    with api.http(api.session) as http:
        for _ in range(50):
            listed = http.get("/v1/receipts").json()["data"]
            if listed:
                break
            page.wait_for_timeout(100)
    assert listed[0]["receipt"]["completion_tokens"] == 2


def test_who_cannot_pay_learns_what_to_do(api: Api, page: Page, as_payer: None) -> None:
    assert "Sign in to ask" in httpx.get(f"{api.url}/play").text
    api.installation.fund(0)
    page.goto(f"{api.url}/play")
    expect(page.get_by_text("Nothing is left to spend")).to_be_visible()
    expect(page.get_by_role("button", name="Ask")).to_be_disabled()
