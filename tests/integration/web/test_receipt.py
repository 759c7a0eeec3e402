"""A receipt of a real market, checked in a browser through a wallet on the real chain."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from backend.domain.errors import Unavailable
from backend.domain.hashing import receipt_id, response_bytes, salted_hash, to_bytes
from backend.domain.money import DOLLAR, UNIT
from backend.domain.serving import NewReceipt
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.installation.base_model import BaseModelInfo
from tests.support.market import some_hash
from tests.support.page_wallet import NAME, PageWallet
from tests.support.running_operator import RunningOperator, listening, serving
from tools.local_market import CONTRIBUTORS, OPERATOR, PAYERS, SHARES, LocalMarket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Locator, Page

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.db.unit_of_work import Database
    from backend.domain.batch import Batch
    from backend.domain.ids import ReceiptId

CHECKS = ("hash", "signature", "slices", "charge", "batch", "earnings")
PAYER, DEPOSIT = PAYERS[0], 100_000_000
REQUEST, ANSWER = b'{"prompt": "hello"}', "world"
SALT = some_hash("salt")


@dataclass
class Paid:
    """An operator that serves pages, and a receipt of the payer that is in no batch yet."""

    operator: RunningOperator
    market: LocalMarket
    receipt: ReceiptId

    @property
    def url(self) -> str:
        return f"{self.operator.url}/r/{self.receipt}"

    def wallet(self, page: Page) -> PageWallet:
        """The payer's wallet, which reads the real chain."""
        chain_id = self.market.chain.chain_id
        wallet = PageWallet(PAYER, chain_id, lambda method, params: self.market.rpc(method, *params))
        wallet.install(page)
        return wallet

    def settle(self) -> None:
        self.operator.installation.settler.run_once(is_forced=True)
        self.operator.pump()
        self.operator.installation.audit.auditor.follow(OPERATOR.account)


@pytest.fixture
def paid(chain: ChainClient, hardhat_node: LocalNode, tmp_path: Path) -> Iterator[Paid]:
    market = LocalMarket(chain)
    market.populate(DEPOSIT)
    with ExitStack() as stack:
        listener, url = stack.enter_context(listening())
        facts = BaseModelInfo("tiny", some_hash("base"), "")
        operator = RunningOperator(tmp_path / "home", market, facts, hardhat_node.url, url)
        stack.enter_context(serving(operator, listener))
        operator.pump()
        yield Paid(operator, market, answered(market, operator.installation.database))


def answered(market: LocalMarket, database: Database) -> ReceiptId:
    """Store the receipt of one answer, and the payer's voucher for it."""
    made = market.serve(PAYER, [market.adapter])
    salt = to_bytes(SALT)
    hashes = {
        "request_hash": salted_hash(salt, REQUEST),
        "response_hash": salted_hash(salt, response_bytes([ANSWER])),
    }
    signed = market.sign(replace(made.receipt, **hashes), made.slices)
    voucher = Voucher(signed.receipt.channel_id, 0, DEPOSIT * UNIT)
    client = SignedVoucher(voucher, PAYER.sign(market.vault.voucher_digest(voucher)))
    identity, key = receipt_id(signed.receipt), market.receipt_key.account
    with database.begin() as tx:
        tx.receipts.add(NewReceipt(identity, OPERATOR.account, PAYER.account, signed, key, SALT, None))
        tx.channels.put_voucher(ClientVoucher(client, PAYER.account))
    return identity


def states(page: Page) -> dict[str, Any]:
    return {name: page.locator(f"[data-check={name}]").get_attribute("data-state") for name in CHECKS}


def check_through_wallet(page: Page) -> Locator:
    page.get_by_role("button", name=f"Check through {NAME}").click()
    return page.locator("#checks")


def test_a_settled_receipt_turns_green_and_a_lie_of_the_market_red(page: Page, paid: Paid) -> None:
    paid.wallet(page)
    page.goto(paid.url)
    expect(page.locator("#checks")).to_have_attribute("data-verdict", "open")
    unknown = dict.fromkeys(CHECKS, "open")
    assert states(page) == unknown | {"hash": "right", "slices": "right"}
    expect(check_through_wallet(page)).to_have_attribute("data-verdict", "open")
    assert states(page) == dict.fromkeys(CHECKS, "right") | {"batch": "open", "earnings": "open"}

    paid.settle()
    page.reload()
    expect(check_through_wallet(page)).to_have_attribute("data-verdict", "right")
    assert states(page) == dict.fromkeys(CHECKS, "right")

    page.route("**/evidence", raise_charge)
    page.reload()
    expect(check_through_wallet(page)).to_have_attribute("data-verdict", "wrong")
    assert states(page)["hash"] == "wrong"


def test_a_batch_that_cannot_be_audited_leaves_the_other_checks_until_it_can(
    page: Page, paid: Paid, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unaudited(*_: object) -> Batch:
        raise Unavailable("no operator serves its data")

    paid.wallet(page)
    paid.settle()
    monkeypatch.setattr(paid.operator.installation.audit.auditor, "batch", unaudited)
    page.goto(paid.url)
    expect(check_through_wallet(page)).to_have_attribute("data-verdict", "open")
    assert states(page) == dict.fromkeys(CHECKS, "right") | {"batch": "open", "earnings": "open"}
    expect(page.locator("#checks [data-fault]")).to_have_text(
        "There is no proof of its batch now: no operator serves its data."
    )

    monkeypatch.undo()
    expect(check_through_wallet(page)).to_have_attribute("data-verdict", "right")
    assert states(page) == dict.fromkeys(CHECKS, "right")


def raise_charge(route: Any) -> None:
    """Answer as a market that claims another charge."""
    answer = route.fetch()
    document = answer.json()
    body = document["receipt"]["receipt"]
    body["charge"] = str(int(body["charge"]) + 1)
    route.fulfill(response=answer, json=document)


def test_the_payer_checks_request_and_answer_and_a_wallet_elsewhere_is_refused(
    page: Page, paid: Paid
) -> None:
    wallet = paid.wallet(page)
    page.goto(paid.url)
    page.get_by_role("button", name="Connect a wallet").click()
    page.get_by_role("button", name=NAME, exact=True).click()
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()

    page.get_by_text("Check request and answer").click()
    page.get_by_label("The request's body").set_input_files(file("request.json", REQUEST))
    page.get_by_label("The answer's text").set_input_files(file("answer.txt", ANSWER.encode()))
    content = page.locator("[data-check=content]")
    expect(content).to_have_attribute("data-state", "right")
    page.get_by_label("The answer's text").set_input_files(file("answer.txt", b"another answer"))
    expect(content).to_have_attribute("data-state", "wrong")

    wallet.chain_id = 1
    check_through_wallet(page)
    expect(page.locator("#checks [data-fault]")).to_contain_text("of chain 1, the market of chain")


def file(name: str, content: bytes) -> Any:
    return {"name": name, "mimeType": "text/plain", "buffer": content}


def test_what_contributors_earned_is_shown_once_a_batch_pays_them(page: Page, paid: Paid) -> None:
    adapter = paid.market.adapter
    path = f"{paid.operator.url}/m/{adapter.creator}/{adapter.name}"
    page.goto(path)
    expect(page.locator(".tree .usd").first).to_have_text("$0.00")
    paid.settle()
    page.reload()
    amounts = page.locator(".tree .usd").all()
    shown = [int(Decimal(one.get_attribute("value") or "") * DOLLAR) for one in amounts]
    auditor = paid.operator.installation.audit.auditor
    batch = auditor.batch(OPERATOR.account, 1)
    owners = [CONTRIBUTORS[share.position].account for share in SHARES]
    assert shown == [sum(entry.value for entry in batch.entries.of(owner)) for owner in owners]
    assert min(shown) > 0
