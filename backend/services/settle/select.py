"""What the next batch can take from each channel: receipts that go on from its line and that are covered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from backend.domain.batch import MAX_SPANS
from backend.domain.hashing import to_bytes
from backend.domain.voucher import SignedVoucher, Voucher

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.batch import OperatorLedger, Span
    from backend.domain.channels import Channel, Grant
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import ChannelId
    from backend.domain.receipt import SignedReceipt
    from backend.ports.chain import SessionKeys, Signer
    from backend.services.settle.validate import Vetting

_NO_VOUCHER = "no voucher and no held session key covers its next receipt"


class Authority(Protocol):
    """By what the payer lets us collect."""

    @property
    def ceiling(self) -> int:
        """How far the channel's line may be collected."""
        ...

    @property
    def waived_until(self) -> int: ...

    @property
    def can_waive(self) -> bool:
        """Whether we may waive, in the payer's favour, what is never settled."""
        ...

    def voucher(self, span: Span, vault: TypedDomain) -> SignedVoucher: ...


@dataclass(frozen=True, slots=True)
class ByVoucher:
    """A voucher that the payer or a session key of theirs signed; the key's cap bounds it too."""

    signed: SignedVoucher
    cap: int | None = None
    can_waive: ClassVar[bool] = False

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
    can_waive: ClassVar[bool] = True

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
    tx: UnitOfWork,
    ledger: OperatorLedger,
    vetting: Vetting,
    keys: SessionKeys,
    limit: int,
    over_before: int,
) -> tuple[dict[ChannelId, Take], dict[ChannelId, str]]:
    """At most `limit` receipts from at most 256 channels, longest waiting first; and who is left out, why.

    Session keys that ended before `over_before` (now less the vault's thaw, unix seconds) collect nothing.
    """
    takes: dict[ChannelId, Take] = {}
    skipped: dict[ChannelId, str] = {}
    for backlog in tx.receipts.backlogs(vetting.operator):
        if limit <= 0 or len(takes) == MAX_SPANS:
            break
        channel = tx.chain.channel(backlog.channel_id)
        if channel is None:
            skipped[backlog.channel_id] = "the channel is not indexed"
            continue
        before = ledger.collected.get(channel.id, 0)
        found = _authorities(tx, channel, keys, over_before)
        usable = (authority for authority in found if authority.ceiling > before)
        take = _best(_Line(tx, channel, before, vetting, limit), usable)
        if take is None:
            skipped[backlog.channel_id] = _NO_VOUCHER
            continue
        if take.reason:
            skipped[backlog.channel_id] = take.reason
        if take.receipts:
            takes[backlog.channel_id] = take
            limit -= len(take.receipts)
    return takes, skipped


def _best(line: _Line, authorities: Iterable[Authority]) -> Take | None:
    """The take that reaches farthest; a client's own voucher on a tie."""
    return max(map(line.take, authorities), key=lambda take: take.until, default=None)


def _authorities(
    tx: UnitOfWork, channel: Channel, keys: SessionKeys, over_before: int
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
        key = keys.signer(grant.key)
        if key is not None:
            yield ByHeldKey(grant.cap, key)


def _end(grant: Grant) -> int:
    """When the key stops signing for anything new, unix seconds."""
    return grant.expiry if grant.revoked_at is None else min(grant.expiry, grant.revoked_at)


@dataclass(frozen=True, slots=True)
class _Line:
    """A channel's unsettled receipts from `before` on."""

    tx: UnitOfWork
    channel: Channel
    before: int
    vetting: Vetting
    limit: int

    def take(self, authority: Authority) -> Take:
        start = line = max(self.before, authority.waived_until)
        taken: list[SignedReceipt] = []
        reason = ""
        for signed in self.tx.receipts.unsettled(self.channel.id, start, self.limit):
            if self._is_waived(signed, line, taken, authority):
                start = line = signed.receipt.cumulative
                continue
            reason = self._refusal(signed, line, start, authority.ceiling)
            if reason:
                break
            taken.append(signed)
            line = signed.receipt.cumulative
        return Take(self.channel, authority, tuple(taken), reason)

    def _is_waived(
        self, signed: SignedReceipt, line: int, taken: Sequence[SignedReceipt], authority: Authority
    ) -> bool:
        """What is set aside would end its channel's line for ever; a span can leave it out at its start."""
        begins = signed.receipt.cumulative - signed.receipt.charge
        return authority.can_waive and not taken and begins == line and self.vetting.is_aside(signed)

    def _refusal(self, signed: SignedReceipt, line: int, start: int, ceiling: int) -> str:
        receipt = signed.receipt
        begins = receipt.cumulative - receipt.charge
        if begins != line:
            return f"its next receipt begins at {begins}, the line is at {line}"
        if receipt.cumulative > ceiling:
            return _NO_VOUCHER
        if receipt.cumulative - start > self.channel.balance:
            return f"its balance of {self.channel.balance} does not cover its next receipt"
        return self.vetting.refusal(signed)
