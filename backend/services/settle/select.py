"""Selects the receipts of the next batch: those that continue a channel's cumulative and may be collected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from backend.domain.batch import MAX_SPANS, most_entries
from backend.domain.money import in_dollars
from backend.domain.voucher import SignedVoucher, Voucher

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.batch import OperatorLedger, Span
    from backend.domain.channels import Channel, Grant
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import ChannelId
    from backend.domain.receipt import SignedReceipt
    from backend.domain.settlement import Backlog
    from backend.ports.keys import SessionKeys, Signer
    from backend.services.settle.pace import BatchLimits
    from backend.services.settle.validate import Validator

PAGE = 100
"""Receipts read at a time: one takes up to 120 KiB, and the batch may have room for few of a channel's."""
_NO_VOUCHER = "no voucher and no held session key covers its next receipt"


class Authority(Protocol):
    """The payer's authorisation to collect."""

    @property
    def ceiling(self) -> int:
        """Highest cumulative that may be collected."""
        ...

    @property
    def waived_until(self) -> int:
        """Cumulative below which uncollected charges are waived."""
        ...

    @property
    def can_waive(self) -> bool:
        """Whether the operator may waive quarantined receipts, that is, forgo their charge."""
        ...

    @property
    def rank(self) -> int:
        """Of authorities that reach equally far the one with the highest rank is used: the payer's signature,
        which does not end, before those of session keys, and a voucher before one that we sign.
        """
        ...

    def voucher(self, span: Span, vault: TypedDomain) -> SignedVoucher: ...


@dataclass(frozen=True, slots=True)
class VoucherAuthority:
    """A voucher signed by the payer, or by a session key of the payer, whose cap limits it too."""

    signed: SignedVoucher
    cap: int | None = None
    can_waive: ClassVar[bool] = False

    @property
    def rank(self) -> int:
        return 2 if self.cap is None else 1

    @property
    def ceiling(self) -> int:
        stated = self.signed.voucher.max_cumulative
        return stated if self.cap is None else min(stated, self.cap)

    @property
    def waived_until(self) -> int:
        return self.signed.voucher.waived_until

    def voucher(self, span: Span, vault: TypedDomain) -> SignedVoucher:  # noqa: ARG002 - it is already signed
        return self.signed


@dataclass(frozen=True, slots=True)
class SessionKeyAuthority:
    """A session key that we hold; it signs a voucher for exactly what is collected."""

    cap: int
    key: Signer
    can_waive: ClassVar[bool] = True
    rank: ClassVar[int] = 0

    @property
    def ceiling(self) -> int:
        return self.cap

    @property
    def waived_until(self) -> int:
        return 0

    def voucher(self, span: Span, vault: TypedDomain) -> SignedVoucher:
        waived_until = span.start if span.start > span.before else 0
        voucher = Voucher(span.channel_id, waived_until, span.until)
        return SignedVoucher(voucher, self.key.sign(vault.voucher_digest(voucher)))


@dataclass(frozen=True, slots=True)
class Selection:
    """Consecutive receipts of one channel and the authority to collect them."""

    channel: Channel
    authority: Authority
    receipts: tuple[SignedReceipt, ...]
    reason: str
    """Why the next receipt was not selected; empty if all were, or as many as the limits allow."""
    is_cut: bool
    """Whether the next receipt was not selected because of the limits of receipts or entries."""

    @property
    def amount(self) -> int:
        """Micro-units."""
        return sum(signed.receipt.charge for signed in self.receipts)

    @property
    def until(self) -> int:
        return self.receipts[-1].receipt.cumulative if self.receipts else -1

    def collection(self, span: Span, vault: TypedDomain) -> dict[str, Any]:
        """The vault's `Collection`."""
        return span.collection(self.channel.payer, self.authority.voucher(span, vault))


def select(
    tx: UnitOfWork,
    backlogs: Sequence[Backlog],
    ledger: OperatorLedger,
    validator: Validator,
    keys: SessionKeys,
    limits: BatchLimits,
) -> tuple[dict[ChannelId, Selection], dict[ChannelId, str]]:
    """Select receipts of at most 256 channels, in the order of their backlogs; also returns the reasons for
    channels that are left out.

    A channel of which the stake covers nothing is left out, so that one large charge never blocks the others.
    Each channel gets at most its share of the receipts and entries first, so that one with many never blocks
    the others either, and what is left goes to those that have more.
    """
    selections: dict[ChannelId, Selection] = {}
    skipped: dict[ChannelId, str] = {}
    share = limits.share() if len(backlogs) > 1 else limits
    for backlog in backlogs:
        if limits.is_full or len(selections) == MAX_SPANS:
            break
        channel = tx.chain.channel(backlog.channel_id)
        if channel is None:
            skipped[backlog.channel_id] = "the channel is not indexed"
            continue
        selection = _select_from(channel, tx, ledger, validator, keys, limits.within(share))
        if selection is None:
            skipped[backlog.channel_id] = _NO_VOUCHER
            continue
        if selection.reason:
            skipped[backlog.channel_id] = selection.reason
        if selection.receipts:
            selections[backlog.channel_id] = selection
            limits = limits.without(selection.receipts)
    for first in [selection for selection in selections.values() if selection.is_cut]:
        if limits.is_full:
            break
        limits = limits.with_again(first.receipts)
        selection = _select_from(first.channel, tx, ledger, validator, keys, limits) or first
        if selection.reason:
            skipped[first.channel.id] = selection.reason
        selections[first.channel.id] = selection
        limits = limits.without(selection.receipts)
    return selections, skipped


def _select_from(
    channel: Channel,
    tx: UnitOfWork,
    ledger: OperatorLedger,
    validator: Validator,
    keys: SessionKeys,
    limits: BatchLimits,
) -> Selection | None:
    """Select receipts of one channel; None without an authority to collect them."""
    before = ledger.collected.get(channel.id, 0)
    found = _authorities(tx, channel, keys, limits.keys_since)
    usable = (authority for authority in found if authority.ceiling > before)
    return _best(_ChannelReceipts(tx, channel, before, validator, limits), usable)


def _best(receipts: _ChannelReceipts, authorities: Iterable[Authority]) -> Selection | None:
    """The selection with the highest cumulative; on a tie the one by the authority of the highest rank.

    Authorities of one rank that begin at the same cumulative differ in how far they reach, so the one with
    the highest ceiling stands for all: a payer with many keys does not multiply the work.
    """
    widest: dict[tuple[int, int], Authority] = {}
    for authority in authorities:
        kind = receipts.start(authority), authority.rank
        if kind not in widest or authority.ceiling > widest[kind].ceiling:
            widest[kind] = authority
    selections = map(receipts.select, widest.values())
    return max(selections, key=lambda found: (found.until, found.authority.rank), default=None)


def _authorities(tx: UnitOfWork, channel: Channel, keys: SessionKeys, keys_since: int) -> Iterator[Authority]:
    """All authorities that the vault accepts. Expired and revoked keys are included: what was charged before
    their end can be collected until the thaw has passed.
    """
    grants = {grant.key: grant for grant in tx.chain.grants(channel.id) if _end(grant) >= keys_since}
    for voucher in tx.channels.vouchers(channel.id):
        if voucher.signer == channel.payer:
            yield VoucherAuthority(voucher.signed)
        elif voucher.signer in grants:
            yield VoucherAuthority(voucher.signed, grants[voucher.signer].cap)
    for grant in grants.values():
        key = keys.signer(grant.key)
        if key is not None:
            yield SessionKeyAuthority(grant.cap, key)


def _end(grant: Grant) -> int:
    """Unix seconds at which the key stops authorising new charges."""
    return grant.expiry if grant.revoked_at is None else min(grant.expiry, grant.revoked_at)


@dataclass(frozen=True, slots=True)
class _ChannelReceipts:
    """A channel's unsettled receipts above the cumulative `before`."""

    tx: UnitOfWork
    channel: Channel
    before: int
    validator: Validator
    limits: BatchLimits

    def start(self, authority: Authority) -> int:
        """Cumulative at which the authority's collection begins."""
        return max(self.before, authority.waived_until)

    def select(self, authority: Authority) -> Selection:
        start = cumulative = self.start(authority)
        selected: list[SignedReceipt] = []
        num_entries, reason, is_cut = 0, "", False
        for signed in self._unsettled(start):
            if self._is_waived(signed, cumulative, selected, authority):
                start = cumulative = signed.receipt.cumulative
                continue
            num_entries += most_entries(signed.slices)
            is_cut = len(selected) == self.limits.receipts or num_entries > self.limits.entries
            if is_cut:
                break
            reason = self._rejection(signed, cumulative, start, authority.ceiling)
            if reason:
                break
            selected.append(signed)
            cumulative = signed.receipt.cumulative
        return Selection(self.channel, authority, tuple(selected), reason, is_cut)

    def _unsettled(self, after: int) -> Iterator[SignedReceipt]:
        while page := self.tx.receipts.unsettled(self.channel.id, after, PAGE):
            yield from page
            after = page[-1].receipt.cumulative

    def _is_waived(
        self, signed: SignedReceipt, cumulative: int, selected: Sequence[SignedReceipt], authority: Authority
    ) -> bool:
        """A quarantined receipt blocks all later receipts of its channel, unless it is waived at the start of
        a span.
        """
        starts_at = signed.receipt.cumulative - signed.receipt.charge
        is_next = not selected and starts_at == cumulative
        return authority.can_waive and is_next and self.validator.is_quarantined(signed)

    def _rejection(self, signed: SignedReceipt, cumulative: int, start: int, ceiling: int) -> str:
        receipt = signed.receipt
        starts_at = receipt.cumulative - receipt.charge
        if starts_at != cumulative:
            return f"its next receipt starts at {starts_at}, but its cumulative is {cumulative}"
        if receipt.cumulative > ceiling:
            return _NO_VOUCHER
        if receipt.cumulative - start > self.channel.balance:
            return f"its balance of {self.channel.balance} does not cover its next receipt"
        if receipt.cumulative - start > self.limits.amount:
            return (
                f"the stake covers {in_dollars(self.limits.amount)} more, and its next receipt needs "
                f"{in_dollars(receipt.cumulative - start)}: `loraledger operator join` adds stake"
            )
        return self.validator.rejection(signed)
