"""A real market whose operator serves pages, for tests with wallets in a browser."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from backend.chain.client import ChainClient
from backend.domain.settlement import BatchState
from backend.installation.base_model import BaseModelInfo
from tests.integration.api.conftest import tokens
from tests.support.market import some_hash
from tests.support.page_wallet import PageWallet
from tests.support.running_operator import RunningOperator, listening, pumping, serving
from tests.support.servers import snapshot
from tests.support.waiting import wait_for
from tools.local_market import OPERATOR, PAYERS, LocalMarket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from backend.chain.keys import LocalSigner
    from backend.chain.local_node import LocalNode
    from backend.domain.deployment import Deployment
    from backend.domain.settlement import CommittedBatch

DEPOSIT = 100_000_000
"""Token units that each payer has deposited: 100 dollars."""


@dataclass(frozen=True, slots=True)
class PageMarket:
    """A populated market, and the operator that serves its pages."""

    operator: RunningOperator
    market: LocalMarket

    @property
    def url(self) -> str:
        return self.operator.url

    def settle(self) -> None:
        """Commit a batch of all receipts, and pass its dispute window, until it is final."""
        self.operator.installation.settler.run_once(is_forced=True)
        committed = self._await(BatchState.COMMITTED)
        self.market.pass_time(self.market.chain.call("Parameters", "current")["disputeWindow"] + 1)
        self.market.send(PAYERS[1], "Settlement", "finalise", [dict(committed.header)])
        self._await(BatchState.FINAL)
        self.operator.installation.audit.auditor.follow(OPERATOR.account)

    def _await(self, state: BatchState) -> CommittedBatch:
        def find() -> CommittedBatch | None:
            with self.operator.installation.database.read() as tx:
                batches = tx.chain.batches(OPERATOR.account)
            return next((batch for batch in batches if batch.state is state), None)

        found = wait_for(find)
        assert found is not None
        return found

    def enter(self, page: Page, signer: LocalSigner, session: LocalSigner | None = None) -> PageWallet:
        """Install the wallet in the page, with a session, of the same account by default. The account must be
        one of the node's.
        """
        chain = self.market.chain
        wallet = PageWallet(signer, chain.chain_id, lambda method, params: self.market.rpc(method, *params))
        wallet.install(page)
        keep_session(page, self.url, session or signer)
        return wallet


def keep_session(page: Page, url: str, signer: LocalSigner) -> None:
    """Sign the page's browser in."""
    found = tokens(url, signer)
    kept = f"{found['token']}.{found['refresh_token']}"
    page.context.add_cookies([{"name": "loraledger_session", "value": kept, "url": url}])


@contextmanager
def page_market(node: LocalNode, deployed: Deployment, home: Path) -> Iterator[PageMarket]:
    """The operator's daemons run; the chain is reverted at the end."""
    with ExitStack() as stack:
        stack.enter_context(snapshot(node.url))
        chain = ChainClient.connect(node.url, deployed)
        stack.callback(chain.close)
        market = LocalMarket(chain)
        market.populate(DEPOSIT)
        listener, url = stack.enter_context(listening())
        facts = BaseModelInfo("tiny", some_hash("base"), "")
        operator = RunningOperator(home, market, facts, node.url, url)
        stack.enter_context(serving(operator, listener))
        operator.pump()
        stack.enter_context(pumping(operator))
        yield PageMarket(operator, market)


def confirmed(page: Page) -> None:
    """Wait until the page shows the effect of the transaction under way."""
    row = page.locator("#pending li")
    expect(row).to_have_attribute("data-state", "right")
    row.get_by_role("button", name="Dismiss").click()
