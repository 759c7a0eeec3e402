"""New users go from nothing to a claimed reward by the pages' guide alone, at `loraledger up`."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from backend.chain.client import ChainClient
from backend.client.deployments import read_deployment
from backend.domain.money import DOLLAR, UNIT
from tests.e2e.test_stack import running
from tests.support.adapters import write_adapter
from tests.support.contributions import jsonl
from tests.support.page_market import confirmed
from tests.support.page_newcomer import Newcomer, newcomer
from tests.support.page_wallet import NAME
from tests.support.waiting import wait_for
from tools.browser import chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from backend.domain.ids import Account
    from tests.support.page_guide import Guide

pytestmark = [pytest.mark.deep, pytest.mark.timeout(900)]
TRAINING_SECONDS, SETTLEMENT_SECONDS = 400, 120
CHECKS = ("hash", "signature", "slices", "charge", "batch", "earnings", "content")


@dataclass(frozen=True, slots=True)
class NewMarket:
    """`url`: of its pages. `chain` reads what they claim. `base`: folder of the base model."""

    url: str
    chain: ChainClient
    base: Path

    def dollars(self, account: Account) -> int:
        """Token units in a wallet."""
        return int(self.chain.call("TestUSD", "balanceOf", account))

    def random_adapter(self, place: Path) -> list[Path]:
        """The files of an adapter that was not trained at the market."""
        write_adapter(place / "random", self.base)
        return sorted((place / "random").iterdir())


@pytest.fixture(autouse=True)
def patience() -> None:
    """What pages show follows blocks, confirmations and the turns of nine processes."""
    expect.set_options(timeout=60_000)


@pytest.fixture
def market(tmp_path: Path) -> Iterator[NewMarket]:
    with running(tmp_path / "home", tmp_path / "up.log") as stack:
        home = Path(stack.facts["home"])
        chain = ChainClient.connect(stack.facts["rpc"], read_deployment(home / "deployment.json"))
        base = Path(json.loads((home / "base_model.json").read_text())["folder"])
        yield NewMarket(stack.facts["api"], chain, base)
        chain.close()


def test_new_users_go_from_nothing_to_a_claimed_reward(market: NewMarket, tmp_path: Path) -> None:
    with ExitStack() as stack:
        browser = stack.enter_context(chromium())
        creator, contributor, payer = (stack.enter_context(newcomer(browser)) for _ in range(3))
        for person in (creator, contributor, payer):
            person.sign_in(market.url)
        for person in (creator, payer):
            get_dollars(person)
        datanet = open_datanet(creator)
        contribute(contributor, datanet)
        adapter = train_and_sell(creator, datanet)
        ask_and_pay(payer, adapter)
        claim(contributor, market)
        assert market.chain.node.num_transactions(contributor.account) == 0, "its wallet only signed"
        other = sell_from_elsewhere(creator, market.random_adapter(tmp_path))
        compare(payer, adapter, other)


def carry_out(guide: Guide, what: str, way: str) -> None:
    """Open the dialog that explains `what`, choose the `way`, and wait for the effect."""
    guide.step(what).click()
    guide.step(way).click()
    confirmed(guide.page)


def get_dollars(person: Newcomer) -> None:
    page, guide = person.page, person.follow("2. Get dollars")
    guide.step("Account").click()
    carry_out(guide, "Get test dollars", "Have the operator send it")
    expect(page.get_by_role("button", name="Get test dollars")).to_have_count(0)
    page.get_by_role("region", name="Deposit").get_by_label("Dollars").fill("5")
    carry_out(guide, "Deposit", "Sign with the wallet")
    expect(page.locator("#state .large")).to_have_text("$5.00 to spend now")
    guide.end()


def open_datanet(creator: Newcomer) -> str:
    page, guide = creator.page, creator.follow("3. Open a datanet")
    guide.step("Data").click()
    guide.step("Create a datanet").click()
    page.get_by_label("Name").fill("words")
    page.get_by_label("Licences that it accepts").fill("MIT")
    page.get_by_label("What its rows are for").fill("What wordsmiths do.")
    carry_out(guide, "Create the datanet", "Send with the wallet")
    expect(page.get_by_role("link", name="words")).to_be_visible()
    guide.end()
    return "words"


def contribute(contributor: Newcomer, datanet: str) -> None:
    page, guide = contributor.page, contributor.follow("4. Contribute rows")
    guide.step("Data").click()
    page.get_by_role("link", name=datanet).click()
    trade = "What does a wordsmith number {} do?", "It smiths {} words a day."
    rows = jsonl(*({"prompt": trade[0].format(n), "completion": trade[1].format(n)} for n in range(16)))
    file: Any = {"name": "rows.jsonl", "mimeType": "application/jsonl", "buffer": rows}
    page.get_by_label("Drop a file here").set_input_files(file)
    page.get_by_label("Licence of the rows").fill("MIT")
    guide.step("Upload and check").click()
    carry_out(guide, "Sign the contribution", "Sign with the wallet")
    expect(page.get_by_role("heading", name="Accepted")).to_be_visible(timeout=60_000)
    guide.end()


def train_and_sell(creator: Newcomer, datanet: str) -> str:
    """Returns the adapter's name."""
    page, guide = creator.page, creator.follow("5. Train and sell an adapter")
    page.get_by_role("link", name=datanet).click()
    carry_out(guide, "Freeze a snapshot", "Have the operator send it")
    guide.step("Train on it").click()
    page.get_by_label("Epochs", exact=True).fill("3")
    page.get_by_label("Rank", exact=True).fill("4")
    page.get_by_label("Tokens of a row").fill("64")
    guide.step("Start training").click()
    fill_registration(page, "wordsmith")
    carry_out(guide, "Register", "Send with the wallet")
    expect(page.locator("#registered").get_by_role("link")).to_be_visible()
    guide.step("Adapters").click()
    expect(page.get_by_role("link", name="wordsmith")).to_be_visible()
    guide.end()
    return "wordsmith"


def fill_registration(page: Page, name: str) -> None:
    """Once the adapter is published."""
    register = page.get_by_role("region", name="Register it")
    expect(register).to_be_visible(timeout=TRAINING_SECONDS * 1000)
    register.get_by_label("Name").fill(name)
    register.get_by_label("million tokens in").fill("500")
    register.get_by_label("million tokens out").fill("1500")


def ask_and_pay(payer: Newcomer, adapter: str) -> None:
    page, guide = payer.page, payer.follow("6. Ask and pay")
    page.get_by_role("link", name="Adapters").click()
    page.get_by_role("link", name=adapter).click()
    guide.step("Try it in the playground").click()
    page.get_by_label("Prompt").fill("What does a wordsmith number 3 do?")
    page.get_by_label("Most tokens").fill("24")
    guide.step("Ask").click()
    for column in ("left", "base"):
        answer = page.locator(f"[data-answer={column}]")
        expect(answer.get_by_role("link", name="Receipt")).to_be_visible(timeout=60_000)
        expect(answer.locator("[data-said]")).to_have_text(re.compile(r"\S"))
    expect(page.locator("[data-answer=left] .share")).to_contain_text("100 %")
    request, answer = (saved(page, name) for name in ("request", "answer"))
    guide.step("Receipt").click()
    expect(page.get_by_role("heading", name="Receipt")).to_be_visible()
    guide.step("Check through").click()
    verdict = page.locator("#checks[data-verdict]")
    expect(verdict).to_be_visible()
    assert verdict.get_attribute("data-verdict") in {"open", "right"}
    guide.end()
    until(page, "final", SETTLEMENT_SECONDS)
    page.get_by_text("Check request and answer").click()
    page.get_by_label("The request's body").set_input_files(request)
    page.get_by_label("The answer's text").set_input_files(answer)
    page.get_by_role("button", name=f"Check through {NAME}").click()
    expect(page.locator("#checks")).to_have_attribute("data-verdict", "right")
    for check in CHECKS:
        expect(page.locator(f"[data-check={check}]")).to_have_attribute("data-state", "right")


def saved(page: Page, name: str) -> Path:
    """The file that a link of the first answer saves."""
    with page.expect_download() as downloaded:
        page.locator("[data-answer=left]").get_by_role("link", name=name, exact=True).click()
    return downloaded.value.path()


def until(page: Page, text: str, seconds: int) -> None:
    """Reload until the page has a tag with this text."""

    def shown() -> bool:
        page.reload()
        return page.locator(".tag", has_text=text).first.is_visible()

    assert wait_for(shown, seconds)


def claim(contributor: Newcomer, market: NewMarket) -> None:
    """What the page shows is exactly what arrives."""
    page, guide = contributor.page, contributor.follow("7. Claim")
    guide.step("Earnings").click()
    amount = page.locator("#state .large .usd")
    units = int(Decimal(amount.get_attribute("value") or "0") * DOLLAR) // UNIT
    assert units > 0
    assert market.dollars(contributor.account) == 0
    carry_out(guide, "Claim", "Have the operator send it")
    expect(page.get_by_role("cell", name="less than a token unit")).to_be_visible()
    assert market.dollars(contributor.account) == units
    guide.end()


def sell_from_elsewhere(creator: Newcomer, files: list[Path]) -> str:
    """Returns the adapter's name."""
    page = creator.page
    page.get_by_role("link", name="Train").click()
    page.get_by_label("Both files").set_input_files(files)
    page.get_by_role("region", name="Adapters from elsewhere").get_by_label("Licence").fill("MIT")
    page.get_by_role("button", name="Upload and screen").click()
    fill_registration(page, "random")
    page.get_by_role("button", name="Register").click()
    page.get_by_role("button", name="Send with the wallet").click()
    confirmed(page)
    expect(page.locator("#registered").get_by_role("link")).to_be_visible()
    return "random"


def compare(payer: Newcomer, adapter: str, other: str) -> None:
    """Two adapters, their base and a blend of both answer at once. The blend's receipt is right."""
    page = payer.page
    page.get_by_role("link", name="Playground").click()
    for label, name in (("One adapter", adapter), ("Another adapter", other)):
        choice = page.get_by_label(label)
        choice.select_option(label=choice.locator("option", has_text=name).text_content())
    page.get_by_label("Prompt").fill("What does a wordsmith number 3 do?")
    page.get_by_label("Most tokens").fill("24")
    page.get_by_label("Ask a blend of both").check()
    page.get_by_label("Blend:").fill("70")
    page.get_by_role("button", name="Ask").click()
    columns = page.locator("[data-answer]:visible")
    expect(columns).to_have_count(4)
    for column in columns.all():
        expect(column.get_by_role("link", name="Receipt")).to_be_visible()
        expect(column.locator("[data-said]")).to_have_text(re.compile(r"\S"))
    blend = page.locator("[data-answer=blend]")
    expect(blend.get_by_role("heading")).to_have_text("70 % of one, 30 % of the other")
    blend.get_by_role("link", name="Receipt").click()
    until(page, "final", SETTLEMENT_SECONDS)
    parts = page.get_by_role("region", name="Whose data")
    for name in (adapter, other):
        expect(parts.get_by_role("link", name=name)).to_be_visible()
    page.get_by_role("button", name=f"Check through {NAME}").click()
    expect(page.locator("#checks")).to_have_attribute("data-verdict", re.compile("right|open"))
    for check in CHECKS[:-1]:
        expect(page.locator(f"[data-check={check}]")).to_have_attribute("data-state", "right")
