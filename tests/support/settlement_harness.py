"""Settlement services on a model of the chain and a real database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from backend.db.tables.transactions import TransactionRow
from backend.domain.chain import Reverted
from backend.domain.channels import Grant
from backend.domain.hashing import charge_id, receipt_id
from backend.domain.receipt import Attributed, Charge, SignedCharge
from backend.domain.serving import NewCharge, NewReceipt
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.services.accounts.claims import Claims
from backend.services.accounts.earned_receipt import EarnedReceipts
from backend.services.accounts.earnings import Earnings
from backend.services.audit.auditor import Auditor
from backend.services.audit.background import BackgroundAudits
from backend.services.audit.cases import Cases
from backend.services.audit.earnings import PublishedEntries
from backend.services.background import Background
from backend.services.channels.admission import Counterparty
from backend.services.channels.channels import Channels
from backend.services.receipts.proofs import Proofs
from backend.services.settle.convictions import Convictions
from backend.services.settle.pace import Pace
from backend.services.settle.settler import Settler
from backend.storage.embedded import EmbeddedStore
from tests.support.auth import sign_in
from tests.support.databases import ViewDatabase
from tests.support.empty_databases import open_empty
from tests.support.market import Key, Market, recover, some_hash
from tests.support.model_chain import THAW_SECONDS, ModelChain
from tests.support.relays import relays_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account, ChannelId
    from backend.domain.receipt import SignedReceipt


class SettlementHarness:
    """A market, its model chain and a real database. Methods replace the sender and the gateway."""

    def __init__(
        self, folder: Path, max_price: int = 900, num_channels: int = 3, database: Database | None = None
    ) -> None:
        self.market = Market(max_price=max_price, num_channels=num_channels)
        self.chain = ModelChain(self.market)
        self.blobs = EmbeddedStore(folder / "blobs", is_durable=False)
        self.database = database or open_empty(folder / "harness.db")
        self.session_key = Key("session key")
        self.old_session_key = Key("old session key")

    @property
    def db(self) -> ViewDatabase:
        return ViewDatabase(self.database, self.chain)

    def begin(self) -> AbstractContextManager[UnitOfWork]:
        return self.db.begin()

    def read(self) -> AbstractContextManager[UnitOfWork]:
        return self.db.read()

    def signer(self, key: Account) -> Key | None:
        ours = (self.session_key, self.old_session_key)
        return next((signer for signer in ours if signer.account == key), None)

    def serve(self, channel: ChannelId | None = None, *, is_paid: bool = True) -> SignedReceipt:
        """Store the receipt of an answer and, if paid, the payer's voucher for it."""
        signed = self.market.serve(channel)
        self.store(signed)
        if is_paid:
            self.sign_voucher(signed.receipt.channel_id, signed.receipt.cumulative)
        return signed

    def store(self, signed: SignedReceipt, trace: str | None = None) -> None:
        with self.begin() as tx:
            tx.receipts.add(
                NewReceipt(
                    id=receipt_id(signed.receipt),
                    operator=self.market.operator,
                    payer=self.market.payer_of[signed.receipt.channel_id].account,
                    signed=signed,
                    signer=recover(self.market.domain.receipt_digest(signed.receipt), signed.signature),
                    salt=some_hash("salt"),
                    key_id=None,
                    trace=trace,
                )
            )

    def charge(self, channel: ChannelId, seconds: int = 60) -> SignedReceipt:
        """Store the charge of an answer, whose receipt is due in `seconds`, and the payer's voucher for it.

        Returns the receipt that the charge's fallback gives.
        """
        signed = self.market.serve(channel)
        values = {name: getattr(signed.receipt, name) for name in Charge.__slots__ if name != "receipt_by"}
        charge = Charge(**values, receipt_by=self.chain.time + seconds)
        key = self.market.receipt_key
        with self.begin() as tx:
            tx.charges.add(
                NewCharge(
                    id=charge_id(charge),
                    operator=self.market.operator,
                    payer=self.market.payer_of[channel].account,
                    signed=SignedCharge(charge, key.sign(self.market.domain.charge_digest(charge))),
                    fallback=Attributed(signed.method, signed.slices),
                    signer=key.account,
                    salt=some_hash("salt"),
                    key_id=None,
                )
            )
        self.sign_voucher(channel, charge.cumulative)
        return signed

    def sign_voucher(
        self, channel: ChannelId, most: int, waived_until: int = 0, signer: Key | None = None
    ) -> None:
        """Store a voucher signed by the payer, or by a session key that the payer holds."""
        signer = signer or self.market.payer_of[channel]
        voucher = Voucher(channel, waived_until, most)
        signed = SignedVoucher(voucher, signer.sign(self.chain.vault.voucher_digest(voucher)))
        with self.begin() as tx:
            tx.channels.put_voucher(ClientVoucher(signed, signer.account))

    def grant(
        self,
        channel: ChannelId,
        cap: int,
        key: Key | None = None,
        expiry: int = 2_000_000_000,
        revoked_at: int | None = None,
    ) -> None:
        """Add a grant to the session key that the gateway holds, or to `key`."""
        grant = Grant(channel, (key or self.session_key).account, cap, expiry, revoked_at)
        self.chain.grants_by_channel.setdefault(channel, []).append(grant)

    def mine(self) -> int:
        """Execute all queued transactions; returns how many succeeded."""
        succeeded = 0
        with self.database.begin() as tx:
            rows = tx.session.scalars(select(TransactionRow).filter_by(state="queued")).all()
            for row in rows:
                try:
                    self.chain.execute(row.function, row.args)
                except Reverted as error:
                    row.state, row.error = "failed", {"error": error.error}
                else:
                    row.state, row.block_number = "confirmed", self.chain.height
                    succeeded += 1
        return succeeded

    def unsettled(self) -> int:
        with self.begin() as tx:
            return sum(b.num_receipts for b in tx.receipts.backlogs(self.market.operator))

    def auditor(self) -> Auditor:
        cases = Cases(self.chain, self.blobs, recover, self.market.domain)
        return Auditor(self.db, cases)

    def audits(self) -> BackgroundAudits:
        return BackgroundAudits(self.db, self.auditor(), Background(wait_seconds=60))

    def settler(self, **changes: Any) -> Settler:
        parts: dict[str, Any] = {
            "operator": self.market.operator,
            "db": self.db,
            "chain": self.chain,
            "blobs": self.blobs,
            "auditor": self.auditor(),
            "keys": self,
            "receipt_key": lambda _: self.market.receipt_key,
            "recover": recover,
            "vault": self.chain.vault,
            "settlement": self.market.domain,
            "pace": Pace(seconds=5, receipts=100),
            "clock": lambda: self.chain.time,
            "thaw_seconds": THAW_SECONDS,
        }
        return Settler(**(parts | changes))

    def channels(self) -> Channels:
        counterparty = Counterparty(self.market.operator, self.market.settlement, self.market.domain)
        convictions = Convictions(self.market.operator, self.chain, self.blobs, self.market.domain, recover)

        def clock() -> datetime:
            return datetime.fromtimestamp(self.chain.time, UTC)

        return Channels(self.db, counterparty, self.chain.vault, recover, clock, convictions.quarantined)

    def signed_voucher(self, channel: ChannelId, most: int, waived_until: int) -> SignedVoucher:
        """A voucher signed by the payer."""
        voucher = Voucher(channel, waived_until, most)
        digest = self.chain.vault.voucher_digest(voucher)
        return SignedVoucher(voucher, self.market.payer_of[channel].sign(digest))

    def proofs(self) -> Proofs:
        return Proofs(self.db, self.auditor(), self.chain, Background(wait_seconds=60))

    def sign_in(self, account: Account) -> None:
        """Have an account sign in, so that what it earns is stored from now on."""
        sign_in(self.database, account)

    def earnings(self) -> Earnings:
        return Earnings(self.db, self.audits(), self.published())

    def earned_receipts(self) -> EarnedReceipts:
        return EarnedReceipts(self.db, self.audits(), self.published())

    def published(self) -> PublishedEntries:
        cases = Cases(self.chain, self.blobs, recover, self.market.domain)
        return PublishedEntries(self.db, cases, Background(wait_seconds=60))

    def claims(self) -> Claims:
        relays = relays_of(self.db, self.chain, self.market.operator)  # type: ignore[arg-type]
        return Claims(self.db, self.audits(), self.chain, relays)
