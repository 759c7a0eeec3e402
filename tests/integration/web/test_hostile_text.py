"""Text of other people in every place where a page shows it: it stays text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import httpx
import pytest

from backend.domain.auth import EVERY_SCOPE
from backend.domain.content import cid_digest
from backend.domain.governance import Proposal
from backend.domain.hashing import licence_word
from backend.domain.ids import DatanetId
from backend.domain.registries import Datanet, Operator
from backend.domain.training import About, ImportedAdapter
from backend.web.markdown import TAGS, render_card
from tests.integration.api.conftest import tokens
from tests.integration.api.test_fine_tuning import SNAPSHOT
from tests.integration.web.conftest import enter
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.integration.api.conftest import Api

MARK = "hostile"
SCRIPT = f"<script>window.{MARK}=1</script>"
IMAGE = f'"><img src=x onerror="window.{MARK}=1">'
PARTS = ("data", "details", "summary", "code", "pre")
TEMPLATE, PRODUCT = "{{ 7 * 191919 }}", "1343433"
TEXT = f"{SCRIPT}{IMAGE}'{TEMPLATE}"
CARD = f"""---
tags: [{json.dumps(TEXT)}]
---
# Title {TEXT}

Summary {TEXT}

[link](javascript:window.{MARK}=1) [data](data:text/html,{SCRIPT})
<a href="https://e.example" onclick="x()">x</a>

![picture](https://tracker.example/p.png) <svg onload="window.{MARK}=1"></svg>

<button hx-get="/sign-out" data-hx-get="/" hx-trigger="load">x</button>

| a | b |
| - | - |
| {SCRIPT} | `{SCRIPT}` |
"""


def publish(api: Api) -> str:
    """An adapter with hostile text wherever its creator or a contributor can put some; its page's path."""
    installation = api.installation
    cid = installation.blobs.add_folder({"README.md": CARD.encode()})
    docs = installation.catalogue.record(installation.version)
    record = replace(docs, name="evil", adapter_digest=some_hash("evil"), cid_digest=cid_digest(cid))
    version = installation.view.register(record)
    installation.record_rows(5)
    installation.view.recorded = [
        replace(one, licence=licence_word(SCRIPT[:31]), reason=255) for one in installation.view.recorded
    ]
    known = hostile_datanet(api)
    installation.view.datanets = lambda *_: [known]  # type: ignore[method-assign]
    installation.view.datanet = lambda _: known  # type: ignore[method-assign]
    installation.descriptions.refresh()
    return f"/m/{version}"


def hostile_datanet(api: Api) -> Datanet:
    folder = api.installation.blobs.add_folder({"README.md": CARD.encode()})
    return Datanet(DatanetId(7), some_account("curator"), TEXT, cid_digest(folder), 4)


def record_rows(api: Api) -> None:
    """A contribution with hostile rows, as another operator may record it."""
    rows = api.installation.blobs.add_folder({"data.jsonl": TEXT.encode() + b"\n\xff\n" + CARD.encode()})
    view = api.installation.view
    view.recorded.append(
        replace(view.recorded[0], content_hash=some_hash("rows"), cid_digest=cid_digest(rows), index=None)
    )


def upload(api: Api) -> str:
    """An upload with hostile texts in its name, field names and rows; its page's path."""
    content = json.dumps({"prompt": 1, TEXT: TEXT}).encode() + b"\n" + TEXT.encode()
    payer, contributions = api.installation.payer.account, api.installation.services.contributions
    made = contributions.upload(payer, DatanetId(7), TEXT[:100], [content], "MIT")
    return f"/u/{made.id}?transfer={quote(TEXT[:60])}"


def train(api: Api) -> list[str]:
    """Jobs with hostile texts; their pages' paths."""
    installation = api.installation
    now = installation.clock()
    job = installation.services.training.create(installation.payer.account, SNAPSHOT, {"max_length": 16})
    nearest = {"version": TEXT, "creator": installation.operator, "cosine": 0.95, "shared_ppm": 0}
    screening = {"risk": {"score": 1, "by": TEXT}, "nearest": nearest, "num_compared": 1, "num_unknown": 0}
    imported = ImportedAdapter(TEXT, {TEXT: TEXT}, About(TEXT, (TEXT,), TEXT))
    other = replace(job, id="adapter-hostile", imported=imported, payment=None)
    with installation.database.begin() as tx:
        tx.training.add(other)
        for one in (job, other):
            tx.training.add_event(one.id, "screening", {"message": TEXT, **screening}, now)
            tx.training.add_event(one.id, "failed", {"code": TEXT, "message": TEXT}, now)
    return [f"/jobs/{job.id}", f"/jobs/imports/{other.id}"]


def describe(api: Api) -> None:
    """An API key, a proposal and an operator's endpoint of hostile text."""
    installation = api.installation
    installation.services.keys.create(installation.payer.account, IMAGE, None, sorted(EVERY_SCOPE), None)
    target, instant = some_account("target"), 1_700_000_000
    proposal = Proposal(
        *(7, some_account("proposer"), CARD, (target,), (0,), (f"0x{SCRIPT.encode().hex()}",)),
        *(instant, instant, 0, 5, 0, 0, 1),
    )
    installation.view.proposal_list.append(proposal)
    installation.view.operator_list.append(Operator(installation.operator, TEXT, (), 1))


def session_of(api: Api) -> dict[str, str]:
    """Cookies of the payer's session."""
    found = tokens(api.url, api.installation.payer)
    return {"loraledger_session": f"{found['token']}.{found['refresh_token']}"}


def hostile_paths(api: Api) -> list[str]:
    describe(api)
    text = quote(TEXT, safe="")
    published = publish(api)
    record_rows(api)
    return [
        published,
        "/datanets",
        "/d/7",
        f"/d/7/c/{some_hash('rows')}",
        upload(api),
        *train(api),
        "/operators",
        f"/o/{api.installation.operator}",
        f"/jobs?snapshot={text}&model={text}",
        f"/play?left={text}&right={text}",
        *(f"/{place}/{text}" for place in ("d", "u", "o", "jobs", "jobs/imports", "play/bills")),
        *("/account", "/governance", "/governance/7", f"/earnings/receipts/{text}"),
        "/",
        f"/?q={quote(SCRIPT)}",
        *(f"/?{field}={text}" for field in ("q", "licence", "max_price", "base", "sort", "after", text)),
        *(f"/{place}/{text}" for place in ("m", "r", text)),
    ]


class Elements(HTMLParser):
    """Elements of a page, each with its attributes and whether it is inside of `.card`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.in_card: list[tuple[str, dict[str, str]]] = []
        self._depth = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = tag, {name: value or "" for name, value in attributes}
        self.found.append(element)
        if self._depth:
            self.in_card.append(element)
        if tag == "div":
            self._depth += bool(self._depth) or element[1].get("class") == "card"

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag == "div" and self._depth > 0


def read(html: str) -> Elements:
    parser = Elements()
    parser.feed(html)
    return parser


@pytest.mark.parametrize("is_fragment", [False, True])
def test_no_page_has_an_element_or_attribute_of_the_text(api: Api, *, is_fragment: bool) -> None:
    headers = {"accept": "text/html", **({"hx-request": "true"} if is_fragment else {})}
    cookies = session_of(api)
    for path in hostile_paths(api):
        answer = httpx.get(api.url + path, headers=headers, cookies=cookies)
        html = answer.text
        assert answer.status_code < 500, path
        assert PRODUCT not in html
        for tag, attributes in read(html).found:
            assert tag not in {"img", "iframe", "object", "style", "base"}, path
            assert tag != "script" or attributes["src"].startswith("/static/"), path
            assert not any(name.startswith("on") or name == "style" for name in attributes), path
            for name in ("href", "src", "action"):
                assert urlsplit(attributes.get(name, "")).scheme in {"", "http", "https"}, path


def test_what_a_wallet_is_asked_quotes_text_as_text(api: Api) -> None:
    describe(api)
    with httpx.Client(base_url=api.url, cookies=session_of(api)) as client:
        token = re.search(r'data-form-token="([^"]+)"', client.get("/governance/7").text)
        assert token is not None
        form = {"ballot": "for", "reason": TEXT}
        answer = client.post("/governance/7/vote", data=form, headers={"x-form-token": token[1]})
    assert answer.status_code == 200
    assert PRODUCT not in answer.text
    elements = read(answer.text).found
    assert {tag for tag, _ in elements} <= {*("h2", "dl", "dt", "dd", "div", "p", "span", "button"), *PARTS}
    assert not any(name.startswith("on") or name == "style" for _, names in elements for name in names)


def test_a_card_has_links_and_structure_alone(api: Api) -> None:
    elements = read(httpx.get(api.url + publish(api)).text).in_card
    assert {tag for tag, _ in elements} <= TAGS
    assert all(not attributes or set(attributes) <= {"href", "rel"} for _, attributes in elements)


@pytest.mark.parametrize("row", ["|\n" * 2000, "|x|y|\n" * 2000])
def test_tables_of_very_many_cells_stay_text(row: str) -> None:
    small = "|a|b|\n|-|-|\n|x|y|\n"
    assert "<td>x</td>" in render_card(small)
    assert "<td" not in render_card(f"{small}\n\n|a|b|\n|-|-|\n{row}")


def test_a_browser_runs_none_of_it(page: Page, api: Api, reports: list[str]) -> None:
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    enter(page, api, api.installation.payer)
    for path in hostile_paths(api):
        page.goto(api.url + path)
        assert page.evaluate(f"window.{MARK}") is None, path
    assert all(url.startswith(api.url) for url in requested), requested
    assert not any("sign-out" in url for url in requested)
    refused = [text for text in reports if "responded with a status of 4" in text]  # pages that do not exist
    reports[:] = [text for text in reports if text not in refused]
