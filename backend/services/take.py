"""What the next batch can take from each channel: receipts that go on from its line and that are covered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from backend.domain.batch import MAX_SPANS
from backend.domain.hashing import to_bytes
from backend.domain.voucher import SignedVoucher, Voucher

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backend.domain.batch import Ledger, Span
    from backend.domain.chain import Channel, Grant
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ChannelId
    from backend.domain.receipt import SignedReceipt
    from backend.ports.chain import Signer
    from backend.ports.settlement import SessionKeys, SettlementTx

_NO_VOUCHER = "no voucher and no held session key covers its next receipt"


class Authority(Protocol):
    """By what the payer lets us collect."""

    @property
    def ceiling(self) -> int:
        """How far the channel's line may be collected."""
        ...

    @property
    def waived_until(self) -> int: ...

    def voucher(self, span: Span, vault: TypedDomain) -> SignedVoucher: ...


@dataclass(frozen=True, slots=True)
class ByVoucher:
    """A voucher that the payer or a session key of theirs signed; the key's cap bounds it too."""

    signed: SignedVoucher
    cap: int | None = None

    @property
    def ceiling(self) -> int:
        stated = self.signed.voucher.max_cumulative
        return stated if self.cap is None else min(stated, self.cap)

    @property
    def waived_until(self) -> int:
        return self.signed.voucher.waived_until

    def voucher(self, span: Span, vault: TypedDomain) -> SignedVoucher:  # noqa: ARG002 - it is signed already
        return self.signed


@dataclass(frozen=True, slots=True)
class ByHeldKey:
    """A session key that we hold: it signs for exactly what is collected."""

    cap: int
    key: Signer

    @property
    def ceiling(self) -> int:
        return self.cap

    @property
    def waived_until(self) -> int:
        return 0

    def voucher(self, span: Span, vault: TypedDomain) -> SignedVoucher:
        voucher = Voucher(span.channel_id, 0, span.until)
        return SignedVoucher(voucher, self.key.sign(vault.voucher_digest(voucher)))


@dataclass(frozen=True, slots=True)
class Take:
    """Consecutive receipts of one channel and the authority to collect them."""

    channel: Channel
    authority: Authority
    receipts: tuple[SignedReceipt, ...]
    reason: str
    """Why it is not more; empty if it is all there is."""

    @property
    def until(self) -> int:
        return self.receipts[-1].receipt.cumulative if self.receipts else -1

    def collection(self, span: Span, vault: TypedDomain) -> dict[str, Any]:
        """The vault's `Collection`."""
        signed = self.authority.voucher(span, vault)
        r, vs = compact(signed.signature)
        return {
            "payer": self.channel.payer,
            "before": span.before,
            "from": signed.voucher.waived_until,
            "maxCumulative": signed.voucher.max_cumulative,
            "until": span.until,
            "r": r,
            "vs": vs,
        }


def compact(signature: str) -> tuple[str, str]:
    """A 65-byte signature (r, s, v) as r and vs. Source: EIP-2098."""
    raw = to_bytes(signature)
    vs = int.from_bytes(raw[32:64], "big") | (raw[64] - 27) << 255
    return "0x" + raw[:32].hex(), f"0x{vs:064x}"


def select(
    tx: SettlementTx, operator: Account, ledger: Ledger, keys: SessionKeys, limit: int, over_before: int
) -> tuple[dict[ChannelId, Take], dict[ChannelId, str]]:
    """At most `limit` receipts from at most 256 channels, longest waiting first; and who is left out, why.

    Session keys that ended before `over_before` (now less the vault's thaw, unix seconds) collect nothing.
    """
    takes: dict[ChannelId, Take] = {}
    skipped: dict[ChannelId, str] = {}
    for backlog in tx.receipts.backlogs(operator):
        if limit <= 0 or len(takes) == MAX_SPANS:
            break
        channel = tx.chain.channel(backlog.channel_id)
        if channel is None:
            skipped[backlog.channel_id] = "the channel is not indexed"
            continue
        before = ledger.collected.get(channel.id, 0)
        found = _authorities(tx, channel, keys, over_before)
        take = _best(tx, channel, before, (a for a in found if a.ceiling > before), limit)
        if take is None:
            skipped[backlog.channel_id] = _NO_VOUCHER
            continue
        if take.reason:
            skipped[backlog.channel_id] = take.reason
        if take.receipts:
            takes[backlog.channel_id] = take
            limit -= len(take.receipts)
    return takes, skipped


def _best(
    tx: SettlementTx, channel: Channel, before: int, authorities: Iterable[Authority], limit: int
) -> Take | None:
    """The take that reaches farthest; a client's own voucher on a tie."""
    takes = [_take(tx, channel, before, authority, limit) for authority in authorities]
    return max(takes, key=lambda take: take.until, default=None)


def _authorities(
    tx: SettlementTx, channel: Channel, keys: SessionKeys, over_before: int
) -> Iterator[Authority]:
    """All that the vault would take; also by expired and revoked keys, since what was served against one
    stays collectable for the thaw.
    """
    grants = {grant.key: grant for grant in tx.chain.grants(channel.id) if _end(grant) >= over_before}
    for voucher in tx.channels.vouchers(channel.id):
        if voucher.signer == channel.payer:
            yield ByVoucher(voucher.signed)
        elif voucher.signer in grants:
            yield ByVoucher(voucher.signed, grants[voucher.signer].cap)
    for grant in grants.values():
        key = keys.held(grant.key)
        if key is not None:
            yield ByHeldKey(grant.cap, key)


def _end(grant: Grant) -> int:
    """When the key stops signing for anything new, unix seconds."""
    return grant.expiry if grant.revoked_at is None else min(grant.expiry, grant.revoked_at)


def _take(tx: SettlementTx, channel: Channel, before: int, authority: Authority, limit: int) -> Take:
    start = line = max(before, authority.waived_until)
    taken: list[SignedReceipt] = []
    reason = ""
    for signed in tx.receipts.unsettled(channel.id, start, limit):
        receipt = signed.receipt
        begins = receipt.cumulative - receipt.charge
        if begins != line:
            reason = f"its next receipt begins at {begins}, the line is at {line}"
        elif receipt.cumulative > authority.ceiling:
            reason = _NO_VOUCHER
        elif receipt.cumulative - start > channel.balance:
            reason = f"its balance of {channel.balance} does not cover its next receipt"
        if reason:
            break
        taken.append(signed)
        line = receipt.cumulative
    return Take(channel, authority, tuple(taken), reason)
