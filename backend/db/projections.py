"""Projection rules: each applies one kind of event to one row. Pure functions of the event and the row.

A rule never reads another row, so a row can be rebuilt from its own events alone. A contract can be made to
emit an event for something that was never created (a thaw of a channel without deposits): such an event stays
in the log and changes no row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.db.tables import chain as t

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.domain.chain import ChainEvent

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """`key` returns the primary key of the row that `apply` updates; `creates` inserts a missing row."""

    table: type[t.Projection]
    key: Callable[[ChainEvent], Key]
    apply: Callable[[Any, ChainEvent], None]
    creates: bool

    def entity(self, event: ChainEvent) -> str:
        return entity_of(self.table, self.key(event))


def entity_of(table: type[t.Projection], key: Key) -> str:
    """Identifier of a row in the event log: table name and primary key."""
    return f"{table.__tablename__}:{json.dumps(key, separators=(',', ':'))}"


RULES: dict[tuple[str, str], Rule] = {}


def rule_of(event: ChainEvent) -> Rule | None:
    """The rule for an event; None if no projection depends on it."""
    return RULES.get((event.contract, event.name))


def _on(
    contract: str, names: str, table: type[t.Projection], *key: str, creates: bool = False
) -> Callable[[Any], Any]:
    """Register a rule for events of a contract.

    `names` are event names separated by spaces; `key` names the event arguments that form the primary key.
    """

    def register(apply: Callable[[Any, ChainEvent], None]) -> Callable[[Any, ChainEvent], None]:
        for name in names.split():
            RULES[contract, name] = Rule(table, lambda e: tuple(e.args[k] for k in key), apply, creates)
        return apply

    return register


def _text(word: str) -> str:
    """A `bytes32` name as text. Contracts do not restrict the bytes, so non-printable ones become `?`."""
    raw = bytes.fromhex(word[2:]).rstrip(b"\0")
    return "".join(chr(b) if 32 <= b < 127 else "?" for b in raw)


@_on("DatasetRegistry", "DatanetCreated", t.DatanetRow, "datanetId", creates=True)
def _datanet_created(row: t.DatanetRow, e: ChainEvent) -> None:
    row.creator, row.name, row.cid_digest = e.args["creator"], _text(e.args["name"]), e.args["cidDigest"]


@_on("DatasetRegistry", "ContributionRecorded", t.ContributionRow, "datanetId", "contentHash", creates=True)
def _contribution_recorded(row: t.ContributionRow, e: ChainEvent) -> None:
    row.contributor, row.cid_digest = e.args["contributor"], e.args["cidDigest"]
    row.licence, row.num_rows = e.args["licence"], e.args["rows"]
    row.index, row.is_accepted, row.reason, row.recorded_at = None, None, 0, e.timestamp


@_on("DatasetRegistry", "ContributionAdmitted", t.ContributionRow, "datanetId", "contentHash")
def _contribution_admitted(row: t.ContributionRow, e: ChainEvent) -> None:
    row.index = e.args["index"]


@_on("DatasetRegistry", "ContributionReviewed", t.ContributionRow, "datanetId", "contentHash")
def _contribution_reviewed(row: t.ContributionRow, e: ChainEvent) -> None:
    row.is_accepted, row.reason = e.args["isAccepted"], e.args["reason"]


@_on("DatasetRegistry", "SnapshotFrozen", t.SnapshotRow, "snapshotId", creates=True)
def _snapshot_frozen(row: t.SnapshotRow, e: ChainEvent) -> None:
    row.datanet, row.count = e.args["datanetId"], e.args["count"]
    row.accepted_hash, row.accepted = e.args["acceptedHash"], e.args["accepted"]


@_on("AdapterRegistry", "VersionRegistered", t.VersionRow, "versionId", creates=True)
def _version_registered(row: t.VersionRow, e: ChainEvent) -> None:
    row.creator, row.name, row.record = e.args["creator"], _text(e.args["name"]), e.args["record"]
    row.is_deprecated = False


@_on("AdapterRegistry", "VersionDeprecated", t.VersionRow, "versionId")
def _version_deprecated(row: t.VersionRow, _e: ChainEvent) -> None:
    row.is_deprecated = True


@_on("PaymentVault", "ChannelOpened", t.ChannelRow, "channelId", creates=True)
def _channel_opened(row: t.ChannelRow, e: ChainEvent) -> None:
    row.payer, row.operator, row.collector = (e.args[k] for k in ("payer", "operator", "collector"))
    row.balance, row.collected, row.max_collected = (
        row.balance or 0,
        row.collected or 0,
        row.max_collected or 0,
    )
    row.thawing, row.thawed_at = row.thawing or 0, row.thawed_at or 0
    row.next_move_nonce = row.next_move_nonce or 0


@_on("PaymentVault", "Deposited", t.ChannelRow, "channelId")
def _deposited(row: t.ChannelRow, e: ChainEvent) -> None:
    row.balance += e.args["amount"]


@_on("PaymentVault", "ThawStarted", t.ChannelRow, "channelId")
def _thaw_started(row: t.ChannelRow, e: ChainEvent) -> None:
    row.thawing, row.thawed_at = e.args["amount"], e.args["thawedAt"]


@_on("PaymentVault", "Withdrawn", t.ChannelRow, "channelId")
def _withdrawn(row: t.ChannelRow, e: ChainEvent) -> None:
    row.balance -= e.args["amount"]
    row.thawing, row.thawed_at = 0, 0


@_on("PaymentVault", "BalanceMoved", t.ChannelRow, "channelId")
def _balance_moved(row: t.ChannelRow, e: ChainEvent) -> None:
    row.balance -= e.args["amount"]
    row.next_move_nonce = e.args["nonce"] + 1


@_on("PaymentVault", "Collected", t.ChannelRow, "channelId")
def _collected(row: t.ChannelRow, e: ChainEvent) -> None:
    row.balance -= e.args["until"] - e.args["from"]
    row.collected = e.args["until"]
    row.max_collected = max(row.max_collected, row.collected)


@_on("PaymentVault", "Refunded", t.ChannelRow, "channelId")
def _refunded(row: t.ChannelRow, e: ChainEvent) -> None:
    row.balance += e.args["amount"]
    row.collected = e.args["collected"]


@_on("PaymentVault", "SessionGranted", t.GrantRow, "channelId", "key", creates=True)
def _session_granted(row: t.GrantRow, e: ChainEvent) -> None:
    row.cap, row.expiry = e.args["cap"], e.args["expiry"]


@_on("PaymentVault", "SessionRevoked", t.GrantRow, "channelId", "key")
def _session_revoked(row: t.GrantRow, e: ChainEvent) -> None:
    row.revoked_at = e.timestamp


@_on("Parameters", "ParameterSetAppended", t.ParameterSetRow, "id", creates=True)
def _parameter_set_appended(row: t.ParameterSetRow, e: ChainEvent) -> None:
    row.values = e.args["set"]


@_on("OperatorRegistry", "EndpointChanged ReceiptKeyAdded Staked", t.OperatorRow, "operator", creates=True)
def _operator_grew(row: t.OperatorRow, e: ChainEvent) -> None:
    row.endpoint = e.args.get("endpoint", row.endpoint or "")
    row.keys = [*(row.keys or []), *([e.args["key"]] if e.name == "ReceiptKeyAdded" else [])]
    row.retired_keys = row.retired_keys or {}
    row.stake = (row.stake or 0) + (e.args["amount"] if e.name == "Staked" else 0)


@_on("OperatorRegistry", "ReceiptKeyRetired", t.OperatorRow, "operator")
def _receipt_key_retired(row: t.OperatorRow, e: ChainEvent) -> None:
    row.retired_keys = row.retired_keys | {e.args["key"]: e.args["retiredAt"]}


@_on("OperatorRegistry", "Unstaked", t.OperatorRow, "operator")
def _unstaked(row: t.OperatorRow, e: ChainEvent) -> None:
    row.stake -= e.args["amount"]


@_on("OperatorRegistry", "Slashed", t.OperatorRow, "operator")
def _slashed(row: t.OperatorRow, e: ChainEvent) -> None:
    row.stake -= e.args["reward"] + e.args["rest"]


@_on("Settlement", "BatchCommitted", t.BatchRow, "batchHash", creates=True)
def _batch_committed(row: t.BatchRow, e: ChainEvent) -> None:
    row.operator, row.number, row.header = e.args["operator"], e.args["number"], e.args["header"]
    row.tx_hash, row.is_refunded = e.tx_hash, False
    row.proof = row.challenger = row.fault = row.faulty_receipt = None


@_on("Settlement", "BatchRefunded", t.BatchRow, "batchHash")
def _batch_refunded(row: t.BatchRow, _e: ChainEvent) -> None:
    row.is_refunded = True


@_on("Disputes", "BatchConvicted", t.BatchRow, "batchHash")
def _batch_convicted(row: t.BatchRow, e: ChainEvent) -> None:
    row.proof, row.challenger = e.args["proof"], e.args["challenger"]


@_on("Disputes", "ReceiptFaulty", t.BatchRow, "batchHash")
def _receipt_faulty(row: t.BatchRow, e: ChainEvent) -> None:
    row.faulty_receipt, row.fault = e.args["receiptIndex"], e.args["fault"]


def _batches_voided(row: t.VoidRow, e: ChainEvent) -> None:
    row.operator, row.batch_hash = e.args["operator"], e.args["batchHash"]
    row.first, row.last, row.tx_hash = e.args["first"], e.args["last"], e.tx_hash


RULES["Settlement", "BatchesVoided"] = Rule(
    t.VoidRow, lambda e: (e.block_hash, e.log_index), _batches_voided, creates=True
)


@_on("Disputes", "Demanded", t.DemandRow, "leafId", creates=True)
def _demanded(row: t.DemandRow, e: ChainEvent) -> None:
    row.operator, row.batch_hash = e.args["operator"], e.args["batchHash"]
    row.tree, row.key, demand = e.args["tree"], e.args["key"], e.args["demand"]
    row.challenger, row.bond = demand["challenger"], demand["bond"]
    row.deadline, row.deadline_block = demand["deadline"], demand["deadlineBlock"]
    row.is_returned, row.answer_block_hash, row.answer_log_index = False, None, None


@_on("Disputes", "BondReturned", t.DemandRow, "leafId")
def _bond_returned(row: t.DemandRow, _e: ChainEvent) -> None:
    row.is_returned = True


@_on("Disputes", "Answered", t.DemandRow, "leafId")
def _answered(row: t.DemandRow, e: ChainEvent) -> None:
    row.answer_block_hash, row.answer_log_index = e.block_hash, e.log_index


def _set_position(row: t.Projection, e: ChainEvent) -> None:
    row.block_number, row.log_index = e.block_number, e.log_index


@_on("Settlement", "BatchFinalised", t.FinalityRow, "operator", creates=True)
def _batch_finalised(row: t.FinalityRow, e: ChainEvent) -> None:
    row.number = e.args["number"]


def _claimed(row: t.ClaimRow, e: ChainEvent) -> None:
    row.operator, row.account, row.wallet = (e.args[k] for k in ("operator", "account", "wallet"))
    row.amount, row.cumulative, row.tx_hash = e.args["amount"], e.args["cumulative"], e.tx_hash


RULES["Settlement", "Claimed"] = Rule(
    t.ClaimRow, lambda e: (e.block_hash, e.log_index), _claimed, creates=True
)


def _proposal_key(e: ChainEvent) -> Key:
    return (str(e.args["proposalId"]),)


def _proposal(names: str, *, creates: bool = False) -> Callable[[Any], Any]:
    def register(apply: Callable[[Any, ChainEvent], None]) -> Callable[[Any, ChainEvent], None]:
        for name in names.split():
            RULES["MarketGovernor", name] = Rule(t.ProposalRow, _proposal_key, apply, creates)
        return apply

    return register


@_proposal("ProposalCreated", creates=True)
def _proposal_created(row: t.ProposalRow, e: ChainEvent) -> None:
    row.content, row.votes, row.vote_ends_at, row.executable_at = (
        dict(e.args),
        [0, 0, 0],
        e.args["voteEnd"],
        0,
    )


@_proposal("VoteCast VoteCastWithParams")
def _vote_cast(row: t.ProposalRow, e: ChainEvent) -> None:
    weight, support = e.args["weight"], e.args["support"]
    row.votes = [sum_ + (weight if i == support else 0) for i, sum_ in enumerate(row.votes)]


@_proposal("ProposalExtended")
def _proposal_extended(row: t.ProposalRow, e: ChainEvent) -> None:
    row.vote_ends_at = e.args["extendedDeadline"]


@_proposal("ProposalQueued")
def _proposal_queued(row: t.ProposalRow, e: ChainEvent) -> None:
    row.executable_at = e.args["etaSeconds"]
