"""Channels as payers see them, and the vouchers that payers send who sign for themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from backend.domain.voucher import ClientVoucher
from backend.services.standing import Standing, later_now, standing, usable_grants

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import datetime

    from backend.domain.chain import Grant
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ChannelId
    from backend.domain.voucher import SignedVoucher
    from backend.ports.chain import Recover
    from backend.ports.serving import ChannelTx
    from backend.services.admission import Market


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


class Channels:
    """`vouchers`: the EIP-712 domain of `PaymentVault`."""

    def __init__(
        self,
        begin: Callable[[], AbstractContextManager[ChannelTx]],
        read: Callable[[], AbstractContextManager[ChannelTx]],
        market: Market,
        vouchers: TypedDomain,
        recover: Recover,
        clock: Callable[[], datetime],
    ) -> None:
        self._begin, self._read = begin, read
        self._market = market
        self._vouchers = vouchers
        self._recover = recover
        self._clock = clock

    def get(self, payer: Account, name: str) -> ChannelView:
        """The payer's channel by its id or its operator, whether or not anything was deposited yet.

        Raises NotFound for channels of others and for operators that keep their books elsewhere.
        """
        channel = self._market.channel(payer)
        if name not in (channel, self._market.operator):
            raise NotFound(
                f"No channel {name} of {payer} here; this operator is {self._market.operator}.",
                param="channel",
            )
        return self._view(payer, channel)

    def list(self, payer: Account) -> list[ChannelView]:
        return [self._view(payer, self._market.channel(payer))]

    def add_voucher(self, payer: Account, signed: SignedVoucher) -> ChannelView:
        """Keep a voucher signed by the payer or by one of the payer's usable session keys."""
        voucher = signed.voucher
        channel = self._market.channel(payer)
        if voucher.channel_id != channel:
            raise InvalidInput(f"The voucher is for another channel than {channel}.", param="channel_id")
        signer = self._recover(self._vouchers.voucher_digest(voucher), signed.signature)
        now = self._clock()
        with self._begin() as tx:
            tx.channels.lock(channel)
            line = standing(tx, channel, now)
            grants = usable_grants(tx.chain.grants(channel), later_now(tx.chain, now))
            if signer != payer and signer not in grants:
                raise Forbidden(f"{signer} may not sign vouchers of this channel.", param="signature")
            # What a batch collected that is not final yet may come back, to be collected anew.
            settled = min(tx.chain.settled(channel), line.collected)
            if voucher.waived_until > settled:
                raise Conflict(
                    f"The voucher would leave answers up to {voucher.waived_until} unpaid: the channel is "
                    f"finally settled up to {settled}.",
                    param="from",
                )
            known = [v for v in tx.channels.vouchers(channel) if v.signer == signer]
            if known and known[0].signed.voucher.max_cumulative >= voucher.max_cumulative:
                raise Conflict(
                    f"A voucher up to {known[0].signed.voucher.max_cumulative} is here already.",
                    param="max_cumulative",
                )
            tx.channels.put_voucher(ClientVoucher(signed, signer))
        return self._view(payer, channel)

    def _view(self, payer: Account, channel: ChannelId) -> ChannelView:
        with self._read() as tx:
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
            )
