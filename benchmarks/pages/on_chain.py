"""A small market on a local chain, for the pages that read the chain itself, such as governance."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from backend.chain.client import ChainClient
from backend.chain.local_node import LocalNode
from backend.db.migrate import upgrade
from backend.deployment.deployment_file import save_deployment
from backend.deployment.local import deploy_local
from backend.domain.hashing import receipt_id
from backend.domain.money import UNIT
from backend.domain.serving import NewReceipt
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.installation.base_model import BaseModelInfo
from backend.installation.installation import Installation
from backend.loopback import free_port
from backend.services.market.governance import Governance
from backend.settings import Settings
from benchmarks.pages import work
from benchmarks.pages.market import SeededPages
from tools.labels import some_hash
from tools.local_market import CONTRIBUTORS, LONG_AFTER, OPERATOR, PAYERS, LocalMarket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.ids import ReceiptId

VIEWER, VOTER = CONTRIBUTORS[0], PAYERS[1]
"""The viewer contributes data, and pays for answers."""
DEPOSIT, THAWING = 2_000, 300
"""Token units: a deposit of which the answers take a visible part."""
NUM_ANSWERS = 12
FOR = 1
WHY = """# Lower the fee to two per cent

Operators of other markets take two per cent. The **dispute window** gets longer, so that watchers have time.
"""


@contextmanager
def prepared(home: Path, num_proposals: int) -> Iterator[tuple[Settings, SeededPages, SeededPages]]:
    """A home whose chain runs: its settings, the viewer's pages, and the operator's."""
    home.mkdir()
    with LocalNode.start(home / "hardhat.log") as node:
        deployment = deploy_local(node.url)
        save_deployment(deployment, home / "deployment.json")
        local = LocalMarket(ChainClient.connect(node.url, deployment))
        local.populate(DEPOSIT)
        _deposit(local)
        password = home / "password"
        password.write_text("of a market for pictures")
        settings = Settings(
            home=home,
            rpc_url=node.url,
            api_port=free_port(),
            confirmations=0,
            keystore_password_file=password,
        )
        installation = Installation(settings)
        upgrade(installation.database.engine)
        installation.save_base_model(BaseModelInfo("tiny", some_hash("base"), ""))
        installation.indexer.catch_up()
        with installation.database.begin() as tx:
            session = work.session(installation, tx, VIEWER.account)
            own_session = work.session(installation, tx, OPERATOR.account)
        receipts = [_answer(installation, local) for _ in range(NUM_ANSWERS)]
        _settle(installation, local)
        _answer(installation, local)
        proposal = _govern(local, Governance(local.chain, installation.database), num_proposals)
        installation.indexer.catch_up()
        installation.close()
        paths = {
            "account_on_chain": "/account",
            "earnings": "/earnings",
            "earned": f"/earnings/receipts/{receipts[0]}",
            "settled": f"/r/{receipts[0]}",
            "governance": "/governance",
            "proposal": f"/governance/{proposal}",
            "operators": "/operators",
            "operator": f"/o/{OPERATOR.account}",
        }
        yield settings, SeededPages(paths, session), SeededPages({"operate": "/operate"}, own_session)
        local.chain.close()


def _deposit(local: LocalMarket) -> None:
    """Open the viewer's channel with a session key, and start to withdraw a part."""
    line = (OPERATOR.account, local.settlement.contract)
    grant = {"key": VOTER.account, "cap": DEPOSIT * UNIT, "expiry": local.chain.head().timestamp + LONG_AFTER}
    local.send(VIEWER, "TestUSD", "approve", local.vault.contract, DEPOSIT)
    local.send(VIEWER, "PaymentVault", "deposit", *line, DEPOSIT, grant)
    local.send(VIEWER, "PaymentVault", "thaw", *line, THAWING * UNIT)


def _answer(installation: Installation, local: LocalMarket) -> ReceiptId:
    """Store the receipt of one answer, and the viewer's voucher for it."""
    signed = local.serve(VIEWER, [local.adapter])
    voucher = Voucher(signed.receipt.channel_id, 0, DEPOSIT * UNIT)
    client = SignedVoucher(voucher, VIEWER.sign(local.vault.voucher_digest(voucher)))
    identity, key, salt = receipt_id(signed.receipt), local.receipt_key.account, some_hash("salt")
    with installation.database.begin() as tx:
        tx.receipts.add(NewReceipt(identity, OPERATOR.account, VIEWER.account, signed, key, salt, None))
        tx.channels.put_voucher(ClientVoucher(client, VIEWER.account))
    return identity


def _settle(installation: Installation, local: LocalMarket) -> None:
    """Commit a batch of all receipts, and have it final."""
    installation.settler.run_once(is_forced=True)
    _send_and_index(installation)
    with installation.database.read() as tx:
        (committed,) = tx.chain.open_batches(OPERATOR.account)
    local.pass_time(local.chain.call("Parameters", "current")["disputeWindow"] + 1)
    local.send(VOTER, "Settlement", "finalise", [dict(committed.header)])
    installation.indexer.catch_up()
    installation.audit.auditor.follow(OPERATOR.account)


def _send_and_index(installation: Installation) -> None:
    for _ in range(3):
        installation.sender.run_once()
    installation.indexer.catch_up()


def _govern(local: LocalMarket, governance: Governance, num_proposals: int) -> int:
    """Propose changes, and vote for the newest. Returns its id."""
    for voter in (VOTER, VIEWER):
        local.send(voter, "MarketToken", "delegate", voter.account)
    local.pass_time(1)
    for number in range(num_proposals, 0, -1):
        changes = {"feePpm": 20_000, "disputeWindow": 60}
        proposed = governance.propose_change(VOTER.account, changes, WHY + "\n" * number)
        prepared = proposed.transaction
        local.rpc("eth_sendTransaction", {"from": VOTER.account, "to": prepared.to, "data": prepared.data})
    local.pass_time(3)
    local.send(VOTER, "MarketGovernor", "castVoteWithReason", proposed.proposal_id, FOR, "cheaper")
    return proposed.proposal_id
