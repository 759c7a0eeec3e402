"""Channels as payers see them, and the vouchers that payers send who sign for themselves."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from backend.domain.hashing import receipt_id
from backend.domain.ids import ReceiptId
from backend.domain.voucher import ClientVoucher
from backend.ports.chain import ChainView
from backend.services.channels.balance import Standing, later_now, standing, usable_grants

if TYPE_CHECKING:
    from datetime import datetime

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.channels import Grant
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ChannelId
    from backend.domain.voucher import SignedVoucher, Voucher
    from backend.ports.chain import Recover
    from backend.services.channels.admission import Market


@dataclass(frozen=True, slots=True)
class ChannelView:
    id: ChannelId
    payer: Account
    operator: Account
    collector: Account
    standing: Standing
    thawed_at: int
    """Unix seconds from when on the thawing part may leave; zero while nothing thaws."""
    grants: tuple[Grant, ...]
    held_keys: frozenset[Account]
    """Those of the session keys that this gateway holds: at most their cap is at risk here."""
    voucher_domain: TypedDomain


SetAside = Callable[[ChainView], Container[ReceiptId]]
"""The receipts that are never settled, as the chain's view has it. Errors: `Unavailable`."""
MAX_WAIVED = 100
"""Receipts that one voucher may leave unpaid."""


class Channels:
    """`vouchers`: the EIP-712 domain of `PaymentVault`."""

    def __init__(
        self,
        db: Database,
        market: Market,
        vouchers: TypedDomain,
        recover: Recover,
        clock: Callable[[], datetime],
        set_aside: SetAside,
    ) -> None:
        self._db = db
        self._market = market
        self._vouchers = vouchers
        self._recover = recover
        self._clock = clock
        self._set_aside = set_aside

    def get(self, payer: Account, name: str) -> ChannelView:
        """The payer's channel by its id or its operator, whether or not anything was deposited yet.

        Raises NotFound for channels of others and for operators that keep their books elsewhere.
        """
        return self._view(payer, self.channel_id(payer, name))

    def channel_id(self, payer: Account, name: str) -> ChannelId:
        """Resolve the id or operator of the payer's channel. Errors: `NotFound`."""
        channel = self._market.channel(payer)
        if name not in (channel, self._market.operator):
            raise NotFound(
                f"No channel {name} of {payer} here; this operator is {self._market.operator}.",
                param="channel",
            )
        return channel

    def list(self, payer: Account) -> list[ChannelView]:
        return [self._view(payer, self._market.channel(payer))]

    def add_voucher(self, payer: Account, signed: SignedVoucher) -> ChannelView:
        """Keep a voucher signed by the payer or by one of the payer's usable session keys.

        It may waive what was convicted: nothing after that is settled before.
        """
        voucher = signed.voucher
        channel = self._market.channel(payer)
        if voucher.channel_id != channel:
            raise InvalidInput(f"The voucher is for another channel than {channel}.", param="channel_id")
        signer = self._recover(self._vouchers.voucher_digest(voucher), signed.signature)
        now = self._clock()
        aside = self._aside() if voucher.waived_until else ()
        with self._db.begin() as tx:
            tx.channels.lock(channel)
            line = standing(tx, channel, now)
            grants = usable_grants(tx.chain.grants(channel), later_now(tx.chain, now))
            if signer != payer and signer not in grants:
                raise Forbidden(f"{signer} may not sign vouchers of this channel.", param="signature")
            # What a batch collected that is not final yet may come back, to be collected anew.
            settled = min(tx.chain.settled(channel), line.collected)
            waivable = _waivable(tx, channel, settled, aside)
            if voucher.waived_until > waivable:
                raise Conflict(
                    f"The voucher would leave answers up to {voucher.waived_until} unpaid: the channel is "
                    f"finally settled up to {settled}, and can be waived up to {waivable}.",
                    param="from",
                    details={"settled": str(settled), "waivable": str(waivable)},
                )
            for known in (v.signed.voucher for v in tx.channels.vouchers(channel) if v.signer == signer):
                if _reach(known) >= _reach(voucher):
                    raise Conflict(
                        f"A voucher up to {known.max_cumulative} is here already.", param="max_cumulative"
                    )
            tx.channels.put_voucher(ClientVoucher(signed, signer))
        return self._view(payer, channel)

    def _aside(self) -> Container[ReceiptId]:
        with self._db.read() as tx:
            return self._set_aside(tx.chain)

    def _view(self, payer: Account, channel: ChannelId) -> ChannelView:
        with self._db.read() as tx:
            on_chain = tx.chain.channel(channel)
            return ChannelView(
                id=channel,
                payer=payer,
                operator=self._market.operator,
                collector=self._market.collector,
                standing=standing(tx, channel, self._clock()),
                thawed_at=on_chain.thawed_at if on_chain else 0,
                grants=tuple(tx.chain.grants(channel)),
                held_keys=frozenset(tx.channels.held_keys(channel)),
                voucher_domain=self._vouchers,
            )


def _reach(voucher: Voucher) -> tuple[int, int]:
    """A later voucher of the same signer takes the place of one that reaches less far."""
    return voucher.max_cumulative, voucher.waived_until


def _waivable(tx: UnitOfWork, channel: ChannelId, settled: int, aside: Container[ReceiptId]) -> int:
    """Where what is set aside right after the settled part of the line ends."""
    end = settled
    for signed in tx.receipts.unsettled(channel, settled, MAX_WAIVED):
        receipt = signed.receipt
        if receipt.cumulative - receipt.charge != end or receipt_id(receipt) not in aside:
            break
        end = receipt.cumulative
    return end
