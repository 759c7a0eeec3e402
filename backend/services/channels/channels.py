"""Payers' channels, and the vouchers that payers sign themselves."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from backend.domain.hashing import receipt_id
from backend.domain.ids import ReceiptId
from backend.domain.money import AMOUNT, in_dollars
from backend.domain.voucher import ClientVoucher
from backend.ports.chain_view import ChainView
from backend.services.channels.balance import ChannelBalance, channel_balance, latest_time, usable_grants

if TYPE_CHECKING:
    from datetime import datetime

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.channels import Grant
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ChannelId
    from backend.domain.voucher import SignedVoucher, Voucher
    from backend.ports.keys import Recover
    from backend.services.channels.admission import Counterparty


@dataclass(frozen=True, slots=True)
class ChannelView:
    id: ChannelId
    payer: Account
    operator: Account
    collector: Account
    balance: ChannelBalance
    thawed_at: int
    """Unix seconds from which the thawing amount may be withdrawn; zero while nothing thaws."""
    grants: tuple[Grant, ...]
    held_keys: frozenset[Account]
    """Session keys that this gateway holds. A compromised gateway can charge at most their cap."""
    vouchers: tuple[ClientVoucher, ...]
    """The latest of each signer."""
    voucher_domain: TypedDomain

    @property
    def signed(self) -> int:
        """Cumulative of the voucher that the payer itself has signed."""
        return max((voucher.max_cumulative for voucher in self._own_vouchers()), default=0)

    @property
    def waived_until(self) -> int:
        """The cumulative up to which a new voucher of the payer waives: what has to be waived for later
        answers to be collected, and what the voucher that it replaces waives.
        """
        own = (voucher.waived_until for voucher in self._own_vouchers())
        return max([self.balance.waive_until, *own])

    def _own_vouchers(self) -> list[Voucher]:
        return [one.signed.voucher for one in self.vouchers if one.signer == self.payer]


Quarantined = Callable[[ChainView], Container[ReceiptId]]
"""Receipts that are never settled, by the indexed chain. Errors: `Unavailable`."""
MAX_WAIVED = 100
"""Maximum number of receipts that one voucher may waive."""


class Channels:
    """`vouchers` is the EIP-712 domain of `PaymentVault`."""

    def __init__(
        self,
        db: Database,
        counterparty: Counterparty,
        vouchers: TypedDomain,
        recover: Recover,
        clock: Callable[[], datetime],
        quarantined: Quarantined,
    ) -> None:
        self._db = db
        self._counterparty = counterparty
        self._vouchers = vouchers
        self._recover = recover
        self._clock = clock
        self._quarantined = quarantined

    def get(self, payer: Account, name: str) -> ChannelView:
        """The payer's channel, by its id or its operator, with or without a deposit.

        Raises NotFound for channels of other payers and for other operators.
        """
        return self._view(payer, self.channel_id(payer, name))

    def channel_id(self, payer: Account, name: str) -> ChannelId:
        """Resolve the id or operator of the payer's channel. Errors: `NotFound`."""
        channel = self._counterparty.channel(payer)
        if name not in (channel, self._counterparty.operator):
            raise NotFound(
                f"No channel {name} of {payer} here; this operator is {self._counterparty.operator}.",
                param="channel",
            )
        return channel

    def list(self, payer: Account) -> list[ChannelView]:
        return [self._view(payer, self._counterparty.channel(payer))]

    def add_voucher(self, payer: Account, signed: SignedVoucher) -> ChannelView:
        """Store a voucher signed by the payer or by one of the payer's usable session keys.

        It may waive quarantined receipts: until then no later receipt of the channel can be settled. It
        waives at least what the signer's last one waives, after which answers that this one authorised come.
        """
        voucher = signed.voucher
        channel = self._counterparty.channel(payer)
        if voucher.channel_id != channel:
            raise InvalidInput(f"The voucher is for another channel than {channel}.", param="channel_id")
        signer = self._recover(self._vouchers.voucher_digest(voucher), signed.signature)
        now = self._clock()
        quarantined = self._load_quarantined() if voucher.waived_until else ()
        with self._db.begin() as tx:
            tx.channels.lock(channel)
            grants = usable_grants(tx.chain.grants(channel), latest_time(tx.chain.cursor(), now))
            if signer != payer and signer not in grants:
                raise Forbidden(f"{signer} may not sign vouchers of this channel.", param="signature")
            own = [one.signed.voucher for one in tx.channels.vouchers(channel) if one.signer == signer]
            is_repeated = voucher.waived_until in {known.waived_until for known in own}
            if not is_repeated:  # it may be repeated also if the conviction was removed
                _check_waiver(tx, channel, voucher.waived_until, quarantined)
            for known in own:
                if known.waived_until > voucher.waived_until and known.waived_until > _settled(tx, channel):
                    raise Conflict(
                        f"The last voucher of {signer} waives answers up to "
                        f"{in_dollars(known.waived_until)}; until that is finally settled, later ones have "
                        "to waive them too.",
                        param="waived_until",
                        details={"waivable": AMOUNT.render(known.waived_until)},
                    )
                if _order(known) >= _order(voucher):
                    raise Conflict(
                        f"A voucher up to {in_dollars(known.max_cumulative)} is already stored.",
                        param="max_cumulative",
                    )
            tx.channels.put_voucher(ClientVoucher(signed, signer))
        return self._view(payer, channel)

    def check_waiver(self, payer: Account, waived_until: int) -> None:
        """Errors: `Conflict` if the payer's channel cannot be waived up to this cumulative now."""
        quarantined = self._load_quarantined() if waived_until else ()
        with self._db.read() as tx:
            _check_waiver(tx, self._counterparty.channel(payer), waived_until, quarantined)

    def _load_quarantined(self) -> Container[ReceiptId]:
        with self._db.read() as tx:
            return self._quarantined(tx.chain)

    def _view(self, payer: Account, channel: ChannelId) -> ChannelView:
        with self._db.read() as tx:
            on_chain = tx.chain.channel(channel)
            return ChannelView(
                id=channel,
                payer=payer,
                operator=self._counterparty.operator,
                collector=self._counterparty.collector,
                balance=channel_balance(tx, channel, self._clock()),
                thawed_at=on_chain.thawed_at if on_chain else 0,
                grants=tuple(tx.chain.grants(channel)),
                held_keys=frozenset(tx.channels.held_keys(channel)),
                vouchers=tuple(tx.channels.vouchers(channel)),
                voucher_domain=self._vouchers,
            )


def _order(voucher: Voucher) -> tuple[int, int]:
    """A voucher replaces those of the same signer that are smaller in this order."""
    return voucher.max_cumulative, voucher.waived_until


def _check_waiver(
    tx: UnitOfWork, channel: ChannelId, waived_until: int, quarantined: Container[ReceiptId]
) -> None:
    """Errors: `Conflict` unless it ends with one of the waivable receipts, or waives nothing: behind a part
    of a receipt no other one could be settled.
    """
    if not waived_until:
        return
    settled = _settled(tx, channel)
    waivable = _waivable(tx, channel, settled, quarantined)
    if waived_until <= settled or waived_until in waivable:
        return
    ends = " or ".join(map(in_dollars, waivable)) or "no further"
    raise Conflict(
        f"The voucher would waive answers up to {in_dollars(waived_until)}; the channel is finally settled "
        f"up to {in_dollars(settled)} and can be waived to the end of an answer that was convicted: {ends}. "
        "Such an answer can be waived once those before it are final.",
        param="waived_until",
        details={
            "settled": AMOUNT.render(settled),
            "waivable": AMOUNT.render(max(waivable, default=settled)),
        },
    )


def _settled(tx: UnitOfWork, channel: ChannelId) -> int:
    """Cumulative up to which the channel is finally settled: what a batch that is not final has collected may
    be refunded, and collected again.
    """
    known = tx.chain.channel(channel)
    return min(tx.chain.settled(channel), known.collected if known else 0)


def _waivable(
    tx: UnitOfWork, channel: ChannelId, settled: int, quarantined: Container[ReceiptId]
) -> list[int]:
    """Cumulatives of the quarantined receipts in the run that directly follows `settled`."""
    ends, end = list[int](), settled
    for signed in tx.receipts.unsettled(channel, settled, MAX_WAIVED):
        receipt = signed.receipt
        if receipt.cumulative - receipt.charge != end or receipt_id(receipt) not in quarantined:
            break
        end = receipt.cumulative
        ends.append(end)
    return ends
