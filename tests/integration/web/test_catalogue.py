"""The catalogue: rows, filters, pages, and what it says when it is empty or asked for nonsense."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx
import pytest
from playwright.sync_api import expect

from backend.web.views import adapter
from tests.integration.api.test_models import described, stating

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.integration.api.conftest import Api


def names(html: str) -> list[str]:
    return re.findall(r'<a href="/m/[^"]+"><bdi>([^<]+)</bdi></a>', html)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["tiny", "docs", "sonnets"]),
        ("?q=verse&licence=&max_price=&base=&active=&sort=", ["sonnets"]),
        ("?max_price=2.99", ["tiny", "docs"]),
        ("?tag=Verse", ["sonnets"]),
        ("?sort=newest", ["sonnets", "docs", "tiny"]),
    ],
)
def test_a_form_with_empty_fields_filters_by_the_others(api: Api, query: str, expected: list[str]) -> None:
    described(api)
    assert names(httpx.get(f"{api.url}/{query}").text) == expected


def test_the_list_has_pages(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    described(api)
    first = httpx.get(f"{api.url}/?limit=2&sort=newest").text
    following = re.search(r'href="(/\?[^"]+)">Next page', first)
    assert following is not None
    second = httpx.get(api.url + following[1].replace("&amp;", "&")).text
    assert (names(first), names(second)) == (["sonnets", "docs"], ["tiny"])


def test_nonsense_is_refused_with_what_to_write(api: Api) -> None:
    answer = httpx.get(f"{api.url}/?max_price=cheap")
    assert answer.status_code == 400
    assert "such as" in answer.text
    unknown = httpx.get(f"{api.url}/nowhere", headers={"accept": "text/html"})
    assert (unknown.status_code, "No page has this address." in unknown.text) == (404, True)
    endpoint = httpx.get(f"{api.url}/v1/nowhere", headers={"accept": "text/html"})
    assert endpoint.json()["error"]["code"] == "not_found"


def test_typing_searches_without_loading_the_page_again(page: Page, api: Api) -> None:
    described(api)
    page.goto(api.url)
    page.evaluate("document.body.dataset.kept = 'yes'")
    page.get_by_label("Search").press_sequentially("verse")
    expect(page.locator("#results tbody tr")).to_have_count(1)
    expect(page.locator("body[data-kept]")).to_be_attached()
    expect(page).to_have_url(re.compile(r"\?q=verse"))
    page.get_by_label("Search").fill("nothing like it")
    expect(page.get_by_role("heading", name="No adapter matches")).to_be_visible()


def test_the_page_reads_without_a_script(page: Page, api: Api) -> None:
    described(api)
    context = page.context.browser.new_context(java_script_enabled=False)  # type: ignore[union-attr]
    plain = context.new_page()
    plain.goto(api.url)
    plain.get_by_label("Search").fill("verse")
    plain.get_by_role("button", name="Show").click()
    expect(plain.locator("#results tbody tr")).to_have_count(1)
    plain.get_by_role("link", name="sonnets").click()
    expect(plain.get_by_role("heading", level=1)).to_have_text("sonnets")
    context.close()


def test_an_adapter_shows_what_earned_most_and_everything_on_request(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    described(api)
    monkeypatch.setattr(adapter, "SHOWN", 1)
    url = f"{api.url}/m/{api.installation.version}"
    page = httpx.get(url).text
    assert page.count("<span>Contribution ") == 1
    assert '<a href="?all=true#lineage">Show all 3</a>' in page
    assert httpx.get(f"{url}?all=true").text.count("<span>Contribution ") == 3


def test_an_adapter_shows_the_agreement_that_its_folder_states(api: Api) -> None:
    version = stating(api, {"methods": "distilled-1", "distilled_agreement": "0.5", "num_kept_out": "12"})
    page = httpx.get(f"{api.url}/m/{version}").text
    assert "<code>distilled-1</code>: 0.50" in page
    assert "on 12 answers that the methods were not fitted to" in page
    without = httpx.get(f"{api.url}/m/{api.installation.version}").text
    assert "docs/attribution.md has the accuracy of each method" in without


def test_errors_have_the_status_and_headers_of_the_api(api: Api) -> None:
    page = httpx.get(f"{api.url}/m/unknown", headers={"accept": "text/html"})
    script = httpx.get(f"{api.url}/m/unknown", headers={"accept": "application/json"})
    endpoint = httpx.get(f"{api.url}/v1/models/unknown")
    assert page.status_code == script.status_code == endpoint.status_code == 404
    assert script.json() == endpoint.json()
    assert endpoint.json()["error"]["message"].partition("'")[0] in page.text
