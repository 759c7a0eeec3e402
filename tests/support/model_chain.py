"""A model of vault and settlement in Python. It reverts where the contracts revert."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from backend.domain.batch import Header, Span, spans_hash
from backend.domain.chain import BlockRef, Reverted
from backend.domain.channels import Channel, Grant
from backend.domain.hashing import TypedDomain, to_bytes
from backend.domain.ids import ZERO_HASH, Account, ChannelId, Hash32
from backend.domain.merkle import BALANCES_TAG, Opening, resolve
from backend.domain.money import GWEI, UNIT, mul_ppm_to_units_up
from backend.domain.registries import Operator, RegisteredVersion
from backend.domain.settlement import (
    BatchState,
    Claim,
    CommittedBatch,
    Conviction,
    Demand,
    DemandAnswer,
    PaidSpan,
)
from backend.domain.transactions import PreparedTransaction
from backend.domain.voucher import Voucher
from tests.support.chain_view import BatchViews, has_fields
from tests.support.market import CHAIN_ID, Market, recover, some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Collection

    from backend.domain.disputes.witnesses import Fault
    from backend.domain.parameters import ParameterSet


def refuse(error: str, **args: Any) -> Reverted:
    return Reverted(f"{error}({args})", error=error, args_by_name=args)


THAW_SECONDS = 300
FORKED = ("channel_by_id", "committed", "paid", "final", "_spans_of")


@dataclass
class ModelChain(BatchViews):
    """Implements `backend.ports.chain.Chain` and `ChainView` for one operator's market."""

    market: Market
    time: int = 1_790_000_100
    height: int = 1
    sets: list[ParameterSet] = field(default_factory=list)
    channel_by_id: dict[ChannelId, Channel] = field(default_factory=dict)
    grants_by_channel: dict[ChannelId, list[Grant]] = field(default_factory=dict)
    committed: list[CommittedBatch] = field(default_factory=list)
    paid: list[Claim] = field(default_factory=list)
    final: int = 0
    others: list[Operator] = field(default_factory=list)
    keys: list[Account] = field(default_factory=list)
    """Receipt keys of the market's operator besides the market's."""
    added_at: dict[Account, int] = field(default_factory=dict)
    """Blocks in which receipt keys were registered; absent: before all others."""
    retired: dict[Account, int] = field(default_factory=dict)
    unindexed: dict[Account, int] = field(default_factory=dict)
    """Retirements that the projections miss."""
    demanded: list[Demand] = field(default_factory=list)
    calls: dict[Hash32, Any] = field(default_factory=dict)
    """Decoded calls by transaction."""
    cover: int = 10**18
    """Of the stake, what covers batches."""
    is_lagging: bool = False
    """While true the projections miss the newest batch."""

    def __post_init__(self) -> None:
        self.vault = TypedDomain(CHAIN_ID, some_account("vault"))
        self.sets = [self.market.terms]
        for channel, payer in self.market.payer_of.items():
            self.channel_by_id[channel] = Channel(
                id=channel,
                payer=payer.account,
                operator=self.market.operator,
                collector=self.market.settlement,
                balance=10**12,
                collected=0,
                thawing=0,
                thawed_at=0,
            )

    # ChainView

    def __getattr__(self, name: str) -> Any:
        if name in {"version", "registered_at", "snapshot", "contribution", "contributor_of"}:
            return getattr(self.market, name)
        raise AttributeError(name)

    def cursor(self) -> BlockRef:
        return BlockRef(self.height, ZERO_HASH, ZERO_HASH, self.time)

    head = cursor

    def versions(self, **wanted: Any) -> list[RegisteredVersion]:
        return [
            RegisteredVersion(version, record, is_deprecated=False, block_number=1)
            for version, record in self.market.records.items()
            if has_fields(record, wanted)
        ]

    def channel(self, channel: ChannelId) -> Channel | None:
        return self.channel_by_id.get(channel)

    def known_channels(self, channels: Collection[ChannelId]) -> dict[ChannelId, Channel]:
        return {c: self.channel_by_id[c] for c in channels if c in self.channel_by_id}

    def grants(self, channel: ChannelId) -> list[Grant]:
        return self.grants_by_channel.get(channel, [])

    def known_grants(self, channels: Collection[ChannelId]) -> dict[ChannelId, list[Grant]]:
        return {channel: self.grants(channel) for channel in channels}

    def parameter_set(self, number: int) -> ParameterSet | None:
        return next((s for s in self.sets if s.id == number), None)

    def latest_parameter_set(self) -> ParameterSet:
        return self.sets[-1]

    def newest_batches(self) -> dict[Account, Hash32]:
        return {batch.operator: batch.hash for batch in self.committed}

    def operator(self, operator: Account) -> Operator | None:
        keys = (self.market.receipt_key.account, *self.keys)
        ours = Operator(self.market.operator, "", keys, 10**18, dict(self.retired))
        return next((o for o in [*self.others, ours] if o.account == operator), None)

    def keys_at(self, operator: Account, block_number: int) -> list[Account]:
        assert operator == self.market.operator
        keys = (self.market.receipt_key.account, *self.keys)
        return [key for key in keys if self.added_at.get(key, 0) <= block_number]

    def listed(self, operator: Account) -> list[CommittedBatch]:
        known = self.committed[:-1] if self.is_lagging else self.committed
        return [self._now(batch) for batch in known if batch.operator == operator]

    def valid_among(self, batches: Collection[Hash32]) -> set[Hash32]:
        return {batch.hash for batch in self.standing()} & set(batches)

    def batch(self, batch_hash: Hash32) -> CommittedBatch | None:
        return next((self._now(batch) for batch in self.committed if batch.hash == batch_hash), None)

    def _now(self, batch: CommittedBatch) -> CommittedBatch:
        is_final = batch.state is BatchState.COMMITTED and batch.number <= self.final
        return replace(batch, state=BatchState.FINAL) if is_final else batch

    def spans(self, batch_hash: Hash32) -> tuple[PaidSpan, ...]:
        # A test may have put another header there: what was collected is still what its hash says.
        wanted = next((b.header["spansHash"] for b in self.committed if b.hash == batch_hash), None)
        found = (spans for spans in self._spans_of.values() if spans_hash(spans) == wanted)
        return tuple(
            PaidSpan(s.channel_id, self.channel_by_id[s.channel_id].payer, s.before, s.start, s.until)
            for s in next(found, [])
        )

    def open_demands(self, operator: Account) -> list[Demand]:
        return [d for d in self.demanded if d.operator == operator]

    def settled(self, channel: ChannelId) -> int:
        final = [b for b in self.standing() if b.number <= self.final]
        spans = (span for batch in final for span in self._spans_of[batch.hash])
        return max((span.until for span in spans if span.channel_id == channel), default=0)

    def demands(self, *batches: Hash32) -> list[Demand]:
        return [d for d in self.demanded if d.batch_hash in batches]

    def answers(self, batch_hash: Hash32) -> list[DemandAnswer]:
        return []

    def called(self, tx_hash: Hash32) -> Any:
        return self.calls.get(tx_hash)

    def finalised(self, operator: Account) -> int:
        return self.final

    def claims(self, account: Account) -> list[Claim]:
        return [c for c in self.paid if c.account == account]

    def claimed(self, operator: Account) -> dict[Account, int]:
        return {c.account: c.cumulative for c in self.paid if c.operator == operator}

    # Chain

    def call(self, contract: str, function: str, *args: Any) -> Any:
        """The views that settlement calls."""
        match contract, function:
            case "Disputes", "demandsOn":
                return self.num_open(args[0]), 0, 0
            case "OperatorRegistry", "retiredAt":
                return (self.retired | self.unindexed).get(args[0], 0)
            case "OperatorRegistry", "coverOf":
                return self.cover, 0
            case "PaymentVault", "potOf":
                return self.pot
        raise AssertionError((contract, function))

    def address(self, contract: str) -> Account:
        return some_account(contract)

    @property
    def pot(self) -> int:
        """What the standing batches collected."""
        return sum(int(batch.header["total"]) for batch in self.standing())

    def prepare(
        self, contract: str, function: str, *args: Any, sender: Account | None = None
    ) -> PreparedTransaction:
        if sender is not None:
            self.execute(function, args, is_simulated=True)
        return PreparedTransaction(CHAIN_ID, some_account(contract), "0x", 0, {"args": args}, 200_000)

    def gas_price(self) -> int:
        return GWEI

    def num_open(self, batch_hash: Hash32) -> int:
        return sum(d.is_open for d in self.demands(batch_hash))

    def execute(self, function: str, args: Any, *, is_simulated: bool = False) -> None:
        """Errors: `Reverted`."""
        effects = getattr(self, f"_{function}")(*args)
        if not is_simulated:
            self.height += 1
            effects()

    def _retireReceiptKey(self, key: Account) -> Any:  # noqa: N802 - the contract's name
        return lambda: self.retired.setdefault(key, self.time)

    def standing(self) -> list[CommittedBatch]:
        return [b for b in self.committed if b.state is not BatchState.VOID]

    def convict(
        self,
        number: int,
        proof: str = "voidUnanswered",
        fault: Fault | None = None,
        receipt: int | None = None,
    ) -> None:
        """Void all pending batches, as a proof against one of them does. `fault` and `receipt` name the fault
        and the batch's receipt.
        """
        fallen = [b for b in self.standing() if b.number > self.final]
        self.height += 1
        conviction = Conviction(
            first=self.final + 1,
            convicted=next(b.hash for b in fallen if b.number == number),
            proof=proof,
            challenger=None,
            fault=fault,
            receipt=receipt,
            tx_hash=some_hash(f"void {self.height}"),
            block_number=self.height,
        )
        for batch in fallen:
            at = self.committed.index(batch)
            self.committed[at] = replace(batch, state=BatchState.VOID, conviction=conviction)

    def unrefunded(self) -> list[CommittedBatch]:
        """Voided batches, in the order of their refunds."""
        fallen = [b for b in self.committed if b.state is BatchState.VOID and not b.is_refunded]
        return sorted(fallen, key=lambda batch: batch.number, reverse=True)

    def _refund(self, header: dict[str, Any], refunds: list[dict[str, Any]]) -> Any:
        batch_hash = Header.from_chain(header).hash
        fallen = self.unrefunded()
        if not fallen or fallen[0].hash != batch_hash:
            raise refuse("NotNextToRefund")
        named = [{k: int(v) if k != "payer" else v for k, v in refund.items()} for refund in refunds]
        if named != [span.refund for span in self.spans(batch_hash)]:
            raise refuse("SpansMismatch")
        return lambda: self._undo(fallen[0])

    def _undo(self, batch: CommittedBatch) -> None:
        """Restore the channels' balances and cumulatives exactly."""
        self.committed[self.committed.index(batch)] = replace(batch, is_refunded=True)
        for span in self._spans_of[batch.hash]:
            channel = self.channel_by_id[span.channel_id]
            balance = channel.balance + span.amount
            self.channel_by_id[span.channel_id] = replace(channel, balance=balance, collected=span.before)

    _spans_of: dict[Hash32, list[Span]] = field(default_factory=dict)

    def fork(self) -> dict[str, Any]:
        """A copy of the state, for `return_to`."""
        return {name: copy(getattr(self, name)) for name in FORKED}

    def return_to(self, fork: dict[str, Any]) -> None:
        """Reorganise: restore the state of a fork. The height does not decrease."""
        for name in FORKED:
            setattr(self, name, copy(fork[name]))

    def _commit(self, commitment: dict[str, Any], collections: list[dict[str, Any]]) -> Any:
        if self.unrefunded():
            raise refuse("RefundsOutstanding")
        last = self.standing()[-1] if self.standing() else None
        parent = last.hash if last else ZERO_HASH
        if commitment["parent"] != parent:
            raise refuse("ParentMismatch", expected=parent, named=commitment["parent"])
        if int(commitment["parameterSet"]) != self.sets[-1].id:
            raise refuse("ParameterSetNotCurrent", named=commitment["parameterSet"], current=self.sets[-1].id)
        spans = [self._span(collection) for collection in collections]
        assert [s.channel_id for s in spans] == sorted({s.channel_id for s in spans})
        if sum(s.amount for s in spans) != int(commitment["total"]):
            raise refuse("TotalMismatch")
        before = Header.from_chain(last.header) if last else None
        values = {name: int(v) if not str(v).startswith("0x") else v for name, v in commitment.items()}
        needed = UNIT * mul_ppm_to_units_up(self.pot + values["total"], self.sets[-1].stake_cover_ppm)
        if needed > self.cover:
            raise refuse("StakeTooLow", cover=self.cover, needed=needed)
        header = {
            **values,
            "operator": self.market.operator,
            "number": before.number + 1 if before else 1,
            "committedAt": self.time,
            "finalAt": self.time + self.sets[-1].dispute_window,
            "finalBlock": 0,
            # The number of batches ever committed makes each hash unique, as the cumulative slashes do.
            "slashUpTo": len(self.committed),
            "cumulativeTotal": (before.cumulative_total if before else 0) + values["total"],
            "spansHash": spans_hash(spans),
        }
        return lambda: self._stand(header, spans)

    def _stand(self, header: dict[str, Any], spans: list[Span]) -> None:
        batch_hash = Header.from_chain(header).hash
        self._spans_of[batch_hash] = spans
        self.committed.append(
            CommittedBatch(
                operator=header["operator"],
                number=header["number"],
                hash=batch_hash,
                header=header,
                state=BatchState.COMMITTED,
                tx_hash=ZERO_HASH,
                block_number=self.height,
            )
        )
        for s in spans:
            channel = self.channel_by_id[s.channel_id]
            balance = channel.balance - s.amount
            self.channel_by_id[s.channel_id] = replace(channel, balance=balance, collected=s.until)

    def _span(self, collection: dict[str, Any]) -> Span:
        c = {name: int(v) if not str(v).startswith("0x") else v for name, v in collection.items()}
        channel = next(ch for ch in self.channel_by_id.values() if ch.payer == c["payer"])
        if c["before"] != channel.collected:
            raise refuse("CollectedMismatch", channelId=channel.id)
        span = Span(channel.id, c["before"], max(c["before"], c["from"]), c["until"])
        if not 0 < span.amount <= channel.balance:
            raise refuse("InsufficientBalance", channelId=channel.id)
        if c["until"] > c["maxCumulative"]:
            raise refuse("VoucherExceeded", channelId=channel.id)
        r, vs = to_bytes(c["r"]), int(c["vs"], 16)
        s = (vs & ((1 << 255) - 1)).to_bytes(32, "big")
        voucher = Voucher(channel.id, c["from"], c["maxCumulative"])
        signature = "0x" + (r + s + bytes([27 + (vs >> 255)])).hex()
        signer = recover(self.vault.voucher_digest(voucher), signature)
        caps = {g.key: g.cap for g in self.grants(channel.id) if _end(g) + THAW_SECONDS >= self.time}
        if signer != channel.payer and c["until"] > caps.get(signer, -1):
            raise refuse("NotAuthorised", channelId=channel.id)
        return span

    def _finalise(self, headers: list[dict[str, Any]]) -> Any:
        final = self.final
        for named in map(Header.from_chain, headers):
            if named.hash not in {b.hash for b in self.standing()}:
                raise refuse("BatchUnknown")
            if named.number != final + 1:
                raise refuse("NotNextToFinalise")
            if self.num_open(named.hash):
                raise refuse("DemandsOpen")
            if named.final_at > self.time:
                raise refuse("NotYetFinal")
            final = named.number
        return lambda: setattr(self, "final", final)

    def _claim(self, request: dict[str, Any]) -> Any:
        header = Header.from_chain(request["header"])
        if header.hash not in {b.hash for b in self.standing()}:
            raise refuse("BatchUnknown")
        if header.number > self.final:
            raise refuse("BatchNotFinal")
        o, account = request["opening"], request["account"]
        opening = Opening(int(o["index"]), int(o["value"]), to_bytes(o["path"]))
        opened = resolve(BALANCES_TAG, bytes(12) + to_bytes(account), header.balances_count, opening)
        if ("0x" + opened.root.hex(), opened.total) != (header.balances_root, header.cumulative_total):
            raise refuse("LeafNotInTree")
        claimed = max((c.cumulative for c in self.claims(account)), default=0)
        amount = (opening.value - claimed) // UNIT * UNIT
        if amount == 0:
            raise refuse("NothingToClaim")
        paid = Claim(header.operator, account, account, amount, claimed + amount, ZERO_HASH, self.height)
        return lambda: self.paid.append(paid)


def _end(grant: Grant) -> int:
    """Unix seconds of the key's expiry, which a revocation brings forward."""
    return grant.expiry if grant.revoked_at is None else min(grant.expiry, grant.revoked_at)
