"""The contributor's way through the pages, from a file with a defect to a contribution; curators' reviews."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import expect

from backend.domain.content import cid_digest
from backend.domain.denials import Denied, Reason, Subject
from backend.domain.ids import DatanetId
from backend.domain.registries import Contribution, Datanet
from backend.services.contribute.staging import DATA_FILE
from backend.services.contribute.terms import TERMS_FILE, terms_file
from tests.integration.api.test_contributing_guide import play_recording
from tests.integration.web.conftest import enter
from tests.support.contributions import jsonl, sign
from tests.support.fakes import some_key
from tests.support.market import CHAIN_ID, some_account, some_hash
from tests.support.page_guide import Guide
from tests.support.page_wallet import PageWallet

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from tests.integration.api.conftest import Api

NET = DatanetId(7)
NAME = "<b>letters</b> & more.jsonl"
GOOD = [{"prompt": "What is a?", "completion": "A letter."}, {"prompt": "b?", "completion": "Another one."}]
BAD = {"prompt": 7, "completion": "The number that a defect shows."}


@pytest.fixture(autouse=True)
def _datanet(api: Api) -> None:
    folder = {"README.md": b"# Letters\n\nQuestions about letters.", TERMS_FILE: terms_file("MIT")}
    cid = api.installation.blobs.add_folder(folder)
    known = Datanet(NET, some_account("curator"), "letters", cid_digest(cid), 0)
    api.installation.view.datanet_list.append(known)


def choose(page: Page, content: bytes) -> None:
    chosen: Any = {"name": NAME, "mimeType": "application/x-ndjson", "buffer": content}
    page.get_by_label("Drop a file here").set_input_files(chosen)


def test_the_guide_leads_to_a_recorded_contribution(page: Page, api: Api, as_payer: None) -> None:
    PageWallet(api.installation.payer, CHAIN_ID).install(page)
    guide = Guide(page, "Contributing")
    page.goto(api.url)
    guide.step("Data").click()
    page.get_by_role("link", name="letters").click()
    expect(page.get_by_text("Questions about letters.")).to_be_visible()
    expect(page.get_by_label("Licence of the rows")).to_have_value("MIT")
    choose(page, jsonl(GOOD[0], BAD, GOOD[1]))
    guide.step("Upload and check").click()
    defect = page.locator("#report tbody tr")
    expect(defect).to_have_count(1)
    expect(defect.get_by_role("rowheader")).to_have_text("Line 2")
    expect(defect.locator("[data-line]")).to_have_text("In your file: 7")
    guide.step("Go without").click()
    expect(page.get_by_role("heading", name="Ready to be signed")).to_be_visible()
    expect(page.locator("#report")).to_contain_text("1 line with a defect")
    guide.step("Sign the contribution").click()
    expect(page.locator("#transaction")).to_contain_text("The rows become public under this licence")
    guide.step("Sign with the wallet").click()
    expect(page.locator("#pending")).to_contain_text("queued")
    guide.end()
    page.goto(f"{api.url}/d/{NET}")
    page.get_by_role("link", name=NAME).first.click()
    expect(page.get_by_role("heading", name="on its way to the chain")).to_be_visible()
    play_recording(api, page.url.rpartition("/")[2])
    expect(page.get_by_role("heading", name="Recorded on the chain")).to_be_visible()


def test_an_interrupted_upload_goes_on_where_it_stopped(page: Page, api: Api, as_payer: None) -> None:
    content, payer = jsonl(*GOOD), api.installation.payer.account
    transfers = api.installation.services.transfers
    begun = transfers.create(payer, len(content), sha256=hashlib.sha256(content).hexdigest())
    transfers.append(payer, begun.id, 0, [content[:40]])
    offsets: list[str] = []
    page.on("request", lambda one: offsets.append(one.headers.get("upload-offset", "")))
    page.goto(f"{api.url}/d/{NET}")
    choose(page, content)
    page.get_by_role("button", name="Upload and check").click()
    expect(page.get_by_role("heading", name="Ready to be signed")).to_be_visible()
    assert [one for one in offsets if one] == ["40"]


@pytest.mark.deep
def test_a_broken_connection_is_tried_again_without_a_word(
    page: Page, api: Api, as_payer: None, reports: list[str]
) -> None:
    broken: list[str] = []

    def break_once(route: Route) -> None:
        if route.request.method == "PATCH" and not broken:
            broken.append(route.request.url)
            route.abort()
        else:
            route.fallback()

    page.route("**/session/v1/transfers/*", break_once)
    page.goto(f"{api.url}/d/{NET}")
    choose(page, jsonl(*GOOD))
    page.get_by_role("button", name="Upload and check").click()
    expect(page.get_by_role("heading", name="Ready to be signed")).to_be_visible()
    assert len(broken) == 1
    assert all("ERR_FAILED" in text for text in reports)
    reports.clear()


@pytest.mark.deep
def test_a_refused_upload_says_why_and_can_be_repeated(
    page: Page, api: Api, as_payer: None, reports: list[str]
) -> None:
    page.goto(f"{api.url}/d/{NET}")
    choose(page, jsonl(*GOOD))
    page.get_by_label("Licence of the rows").fill("GPL-3.0-only")
    page.get_by_role("button", name="Upload and check").click()
    fault = page.locator("form [role=alert]")
    expect(fault).to_contain_text("GPL-3.0-only")
    choose(page, b"x" * 2000)
    page.get_by_role("button", name="Upload and check").click()
    expect(fault).to_contain_text("more than 1000 bytes")
    choose(page, jsonl(*GOOD))
    page.get_by_label("Licence of the rows").fill("MIT")
    page.get_by_role("button", name="Upload and check").click()
    expect(page.get_by_role("heading", name="Ready to be signed")).to_be_visible()
    reports.clear()  # the refusals


def test_a_curator_decides_with_the_rows_in_view(page: Page, api: Api) -> None:
    installation, curator = api.installation, some_key("curator")
    account, contributions = installation.payer.account, installation.services.contributions
    upload = contributions.upload(account, NET, "letters", [jsonl(*GOOD)], "MIT")
    contributions.submit(upload.id, sign(contributions, upload, installation.payer))
    play_recording(api, upload.id)
    page.goto(f"{api.url}/d/{NET}")
    page.locator("#contributions + table").get_by_role("link").first.click()
    expect(page.locator("pre").first).to_contain_text("A letter.")
    enter(page, api, curator)
    page.get_by_role("link", name="Decide as a curator").click()
    expect(page.get_by_role("heading", name="Near copies")).to_be_visible()
    page.get_by_label("Decision", exact=True).select_option("Reject it: not useful here")
    page.get_by_role("button", name="Decide").click()
    expect(page.locator("#transaction")).to_contain_text("Snapshots from now on leave it out.")


def test_the_page_of_an_upload_is_its_contributors_alone(api: Api) -> None:
    payer = api.installation.payer.account
    upload = api.installation.services.contributions.upload(payer, NET, "letters", [jsonl(*GOOD)], "MIT")
    assert httpx.get(f"{api.url}/u/{upload.id}").status_code == 401


def test_a_wallet_that_is_no_curator_gets_no_review(api: Api, page: Page, as_payer: None) -> None:
    answer = page.request.get(f"{api.url}/d/{NET}/c/{'0x' + 'ab' * 32}/review")
    assert answer.status == 403


def test_a_datanet_without_a_stored_description_shows_its_cid(api: Api) -> None:
    view = api.installation.view
    view.datanet_list[:] = [replace(one, cid_digest="0x" + "22" * 32) for one in view.datanet_list]
    page = httpx.get(f"{api.url}/d/{NET}").text
    assert "not stored at this operator" in page


@pytest.mark.parametrize("kind", [Denied.DATANET, Denied.CONTENT])
def test_what_is_denied_is_not_shown(api: Api, kind: Denied) -> None:
    installation = api.installation
    (known,) = installation.view.datanet_list
    folder = installation.blobs.add_folder({DATA_FILE: jsonl(*GOOD)})
    content = some_hash("rows")
    facts = (some_account("contributor"), content, cid_digest(folder), some_hash("MIT"), 2, True, 0, 1, 1)
    installation.view.recorded.append(Contribution(NET, 0, *facts))
    pages = {f"{api.url}/d/{NET}": "Questions about letters", f"{api.url}/d/{NET}/c/{content}": "Another one"}
    for page, words in pages.items():
        assert words in httpx.get(page).text
    for digest in (known.cid_digest, cid_digest(folder)):
        installation.denials.deny(Subject(kind, str(NET) if kind is Denied.DATANET else digest), Reason.LEGAL)
    answers = {page: httpx.get(page) for page in pages}
    for page, words in pages.items():
        assert words not in answers[page].text
        assert "legal" in answers[page].text
    assert [answer.status_code for answer in answers.values()] == [200, 451]
