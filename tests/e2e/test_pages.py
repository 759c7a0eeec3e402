"""New users go from nothing to a claimed reward by the pages' guide alone, at `loraledger up`."""

from __future__ import annotations

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

pytestmark = [pytest.mark.deep, pytest.mark.timeout(900)]
TRAINING_SECONDS, SETTLEMENT_SECONDS = 400, 120
CHECKS = ("hash", "signature", "slices", "charge", "batch", "earnings", "content")


@dataclass(frozen=True, slots=True)
class NewMarket:
    """`url`: of its pages. `chain` reads what they claim."""

    url: str
    chain: ChainClient

    def dollars(self, account: Account) -> int:
        """Token units in a wallet."""
        return int(self.chain.call("TestUSD", "balanceOf", account))


@pytest.fixture(autouse=True)
def patience() -> None:
    """What pages show follows blocks, confirmations and the turns of nine processes."""
    expect.set_options(timeout=60_000)


@pytest.fixture
def market(tmp_path: Path) -> Iterator[NewMarket]:
    with running(tmp_path / "home", tmp_path / "up.log") as stack:
        deployment = read_deployment(Path(stack.facts["home"]) / "deployment.json")
        chain = ChainClient.connect(stack.facts["rpc"], deployment)
        yield NewMarket(stack.facts["api"], chain)
        chain.close()


def test_new_users_go_from_nothing_to_a_claimed_reward(market: NewMarket) -> None:
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


def get_dollars(person: Newcomer) -> None:
    page, guide = person.page, person.follow("2. Get dollars")
    guide.step("Account").click()
    guide.step("Get test dollars").click()
    guide.step("Have the operator send it").click()
    confirmed(page)
    expect(page.get_by_role("button", name="Get test dollars")).to_have_count(0)
    page.get_by_role("region", name="Deposit").get_by_label("Dollars").fill("5")
    guide.step("Deposit").click()
    guide.step("Sign with the wallet").click()
    confirmed(page)
    expect(page.locator("#state .large")).to_have_text("$5.00 to spend now")
    guide.end()


def open_datanet(creator: Newcomer) -> str:
    page, guide = creator.page, creator.follow("3. Open a datanet")
    guide.step("Data").click()
    guide.step("Create a datanet").click()
    page.get_by_label("Name").fill("words")
    page.get_by_label("Licences that it accepts").fill("MIT")
    page.get_by_label("What its rows are for").fill("What wordsmiths do.")
    guide.step("Create the datanet").click()
    guide.step("Send with the wallet").click()
    confirmed(page)
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
    guide.step("Sign the contribution").click()
    guide.step("Sign with the wallet").click()
    confirmed(page)
    expect(page.get_by_role("heading", name="Accepted")).to_be_visible(timeout=60_000)
    guide.end()


def train_and_sell(creator: Newcomer, datanet: str) -> str:
    """Returns the adapter's name."""
    page, guide = creator.page, creator.follow("5. Train and sell an adapter")
    page.get_by_role("link", name=datanet).click()
    guide.step("Freeze a snapshot").click()
    page.get_by_role("button", name="Have the operator send it").click()
    confirmed(page)
    guide.step("Train on it").click()
    page.get_by_label("Epochs", exact=True).fill("3")
    page.get_by_label("Rank", exact=True).fill("4")
    page.get_by_label("Tokens of a row").fill("64")
    guide.step("Start training").click()
    register = page.get_by_role("region", name="Register it")
    expect(register).to_be_visible(timeout=TRAINING_SECONDS * 1000)
    register.get_by_label("Name").fill("wordsmith")
    register.get_by_label("million tokens in").fill("500")
    register.get_by_label("million tokens out").fill("1500")
    guide.step("Register").click()
    guide.step("Send with the wallet").click()
    confirmed(page)
    expect(page.locator("#registered").get_by_role("link")).to_be_visible()
    guide.step("Adapters").click()
    expect(page.get_by_role("link", name="wordsmith")).to_be_visible()
    guide.end()
    return "wordsmith"


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
    guide.step("Claim").click()
    guide.step("Have the operator send it").click()
    confirmed(page)
    expect(page.get_by_role("cell", name="less than a token unit")).to_be_visible()
    assert market.dollars(contributor.account) == units
    guide.end()
