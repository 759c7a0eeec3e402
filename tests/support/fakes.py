"""Fakes of the clock, chain, chain view, engine, blob store and key store."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from backend.chain.keys import LocalSigner
from backend.domain.chain import BlockRef
from backend.domain.errors import DomainError, InvalidInput, Unavailable
from backend.domain.hashing import keccak, version_id
from backend.domain.ids import Hash32
from backend.domain.registries import Contribution, Datanet, Operator, RegisteredVersion, Snapshot
from backend.domain.settlement import BatchState
from backend.domain.transactions import PreparedTransaction
from backend.ports.engine import EngineState, InvalidSchema, InvalidToolSchema
from backend.services.accounts.claims import Claimable, NothingToClaim
from backend.services.train.estimate import Tokenisation, TokenisedRow
from inference.protocol import (
    Chunk,
    CountTokens,
    FinishReason,
    Generate,
    JsonSchema,
    Message,
    ProbeStates,
    TokenCount,
    TokenLogprob,
    TokenLogprobs,
)
from inference.tool_calls import HERMES, CallParser
from tests.support.market import CHAIN_ID, some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from backend.domain.channels import Channel, Grant
    from backend.domain.governance import Proposal
    from backend.domain.ids import Account, ChannelId, Cid, DatanetId, SnapshotId, VersionId
    from backend.domain.receipt import VersionRecord
    from backend.domain.settlement import Demand
    from backend.domain.training import TrainingConfig
    from backend.ports.gradients import GradientRequest
    from backend.services.train.estimate import Rows

ORIGIN = "http://127.0.0.1:8000"
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
EXPIRY = int((NOW + timedelta(days=1)).timestamp())


def some_key(label: str) -> LocalSigner:
    return LocalSigner(keccak(label.encode()))


@dataclass
class FakeClock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def rows_after(listed: Sequence[Any], names: Sequence[str], after: str | None, limit: int) -> list[Any]:
    """Up to `limit` items that follow the one that `after` names."""
    if after is not None and after not in names:
        raise InvalidInput("not listed", param="after")
    start = 0 if after is None else names.index(after) + 1
    return list(listed[start : start + limit])


@dataclass
class FakeChainView:
    """The part of `ChainView` that serving reads; its last block is `lag_seconds` old."""

    clock: FakeClock = field(default_factory=FakeClock)
    lag_seconds: int = 0
    block_number: int = 9
    versions_list: list[RegisteredVersion] = field(default_factory=list)
    channels: dict[ChannelId, Channel] = field(default_factory=dict)
    granted: dict[ChannelId, list[Grant]] = field(default_factory=dict)
    settled_lines: dict[ChannelId, int] = field(default_factory=dict)
    """Final cumulative by channel; a channel's collected cumulative where absent."""
    snapshots: dict[SnapshotId, Snapshot] = field(default_factory=dict)
    committed: list[Any] = field(default_factory=list)
    demanded: list[Demand] = field(default_factory=list)
    datanet_list: list[Datanet] = field(default_factory=list)
    recorded: list[Contribution] = field(default_factory=list)
    proposal_list: list[Proposal] = field(default_factory=list)
    operator_list: list[Operator] = field(default_factory=list)
    blocks: dict[int, BlockRef] = field(default_factory=dict)

    def mine(self, name: str = "") -> BlockRef:
        """A block now, with a hash of this name or of its number."""
        self.block_number += 1
        mined = self.cursor()
        self.blocks[mined.number] = replaced(mined, hash=some_hash(name)) if name else mined
        return self.cursor()

    def block(self, number: int) -> BlockRef | None:
        """Those before the first mined one are of 1970."""
        if number > self.block_number:
            return None
        return self.blocks.get(number, BlockRef(number, some_hash(f"block {number}"), some_hash("old"), 0))

    def cursor(self) -> BlockRef:
        if self.block_number in self.blocks:
            return self.blocks[self.block_number]
        instant = int(self.clock().timestamp()) - self.lag_seconds
        names = (some_hash(f"block {number}") for number in (self.block_number, self.block_number - 1))
        return BlockRef(self.block_number, *names, instant)

    def datanets(self) -> list[Datanet]:
        return self.datanet_list

    def datanet(self, datanet: DatanetId) -> Datanet | None:
        return next((known for known in self.datanet_list if known.id == datanet), None)

    def contributions(self, datanet: DatanetId) -> list[Contribution]:
        return [known for known in self.recorded if known.datanet == datanet]

    def snapshots_of(self, datanet: DatanetId) -> list[Snapshot]:
        return [known for known in self.snapshots.values() if known.datanet == datanet]

    def contribution_with(self, datanet: DatanetId, content_hash: Hash32) -> Contribution | None:
        found = (known for known in self.contributions(datanet) if known.content_hash == content_hash)
        return next(found, None)

    def operator(self, account: Account) -> Operator | None:
        return next((one for one in self.operator_list if one.account == account), None)

    def operators(self) -> list[Operator]:
        return self.operator_list

    def operators_after(self, after: str | None, limit: int) -> list[Operator]:
        return rows_after(self.operator_list, [one.account for one in self.operator_list], after, limit)

    def proposals(self, after: str | None, limit: int, *, is_newest_first: bool = False) -> list[Proposal]:
        listed = self.proposal_list[:: -1 if is_newest_first else 1]
        return rows_after(listed, [str(one.id) for one in listed], after, limit)

    def proposal(self, proposal: int) -> Proposal | None:
        return next((known for known in self.proposal_list if known.id == proposal), None)

    def channel(self, channel: ChannelId) -> Channel | None:
        return self.channels.get(channel)

    def settled(self, channel: ChannelId) -> int:
        found = self.channels.get(channel)
        return self.settled_lines.get(channel, found.collected if found else 0)

    def open_demands(self, operator: Account) -> list[Demand]:
        return [found for found in self.demanded if found.operator == operator]

    def known_channels(self, channels: Collection[ChannelId]) -> dict[ChannelId, Channel]:
        return {channel: self.channels[channel] for channel in channels if channel in self.channels}

    def grants(self, channel: ChannelId) -> list[Grant]:
        return self.granted.get(channel, [])

    def known_grants(self, channels: Collection[ChannelId]) -> dict[ChannelId, list[Grant]]:
        return {channel: self.grants(channel) for channel in channels}

    def snapshot(self, snapshot: SnapshotId) -> Snapshot | None:
        return self.snapshots.get(snapshot)

    def contributor_of(self, snapshot: SnapshotId, index: int) -> Account | None:
        known = self.snapshots.get(snapshot)
        return some_account(f"contributor {index}") if known and index < known.count else None

    def version(self, version: VersionId) -> VersionRecord | None:
        return next((v.record for v in self.versions_list if v.id == version), None)

    def versions(self, creator: Account | None = None, name: str | None = None) -> list[RegisteredVersion]:
        return [
            v
            for v in self.versions_list
            if creator in (None, v.record.creator) and name in (None, v.record.name)
        ]

    def batches(self, operator: Account) -> list[Any]:
        return [batch for batch in self.committed if batch.operator == operator]

    def recent_batches(self, operator: Account, after: str | None, limit: int) -> list[Any]:
        listed = self.batches(operator)[::-1]
        return rows_after(listed, [one.hash for one in listed], after, limit)

    def open_batches(self, operator: Account) -> list[Any]:
        return [batch for batch in self.batches(operator) if batch.state is BatchState.COMMITTED]

    def open_totals(self, operators: Collection[Account]) -> dict[Account, int]:
        found = {one: self.open_batches(one) for one in operators}
        return {one: sum(int(each.header["total"]) for each in batches) for one, batches in found.items()}

    def demands(self, *batches: Hash32) -> list[Demand]:
        return [found for found in self.demanded if found.batch_hash in batches]

    def register(self, record: VersionRecord, *, is_deprecated: bool = False) -> VersionId:
        number = version_id(record)
        self.versions_list.append(RegisteredVersion(number, record, is_deprecated, len(self.versions_list)))
        return number


def scripted_logprobs(word: str, num_top: int | None) -> list[TokenLogprobs] | None:
    """Each word is a token; the second likeliest is an incomplete UTF-8 sequence."""
    if num_top is None:
        return None
    ranked = [TokenLogprob(1, word.encode(), -0.5), TokenLogprob(2, b"\xe2\x82", -1.5)]
    return [TokenLogprobs(ranked[0], ranked[:num_top])]


def parsed(chunk: Chunk, parser: CallParser) -> Chunk:
    """What the engine makes of a chunk of an answer with tools."""
    content, calls = parser.push(chunk.text)
    if chunk.finish_reason is None:
        return replace(chunk, content=content, calls=calls)
    reason = "tool_calls" if parser.is_complete and chunk.finish_reason == "stop" else chunk.finish_reason
    return replace(chunk, content=content + parser.flush(), calls=calls, finish_reason=reason)


REFUSED_PARAMETERS = '{"type": "object", "not": {}}'


class ScriptedEngine:
    """Generates `words`, one token each. It can wait, fail during an answer, or be unavailable."""

    def __init__(self) -> None:
        self.words: Sequence[str] = ("Hello", " there", ", world", ".")
        self.max_context = 128
        self.cached_prompt_tokens = 0
        self.token_ids = [1]
        """Of each word."""
        self.weight_format: str | None = "bf16"
        self.counted: list[Sequence[Message] | str] = []
        self.breaks_after: int | None = None
        self.is_gone = False
        self.waits_after: int | None = None
        self.waits_after_of: dict[str, int] = {}
        """Overrides `waits_after` by request id."""
        self.probe = ProbeStates([], [1.0, 0.0, 0.0], 0, 0)
        self.requests: list[Generate] = []
        self.refused_schema = JsonSchema('{"not": {}}')
        self.asked = asyncio.Event()
        self.is_waiting = threading.Event()
        """Set while a generation waits, for tests on other threads."""
        self._waking: dict[str, asyncio.Event] = {}
        self._aborted: set[str] = set()

    async def count_tokens(self, request: CountTokens) -> TokenCount:
        if self.is_gone:
            raise Unavailable("The engine is not running; try again.")
        self.counted.append(request.messages if request.prompt is None else request.prompt)
        contents = [message.content for message in request.messages]
        texts = contents if request.prompt is None else [request.prompt]
        return TokenCount("", sum(len(text.split()) for text in texts), self.max_context)

    async def metrics(self, deadline_seconds: float) -> str:
        if self.is_gone:
            raise Unavailable("The engine is not running; try again.")
        return "loraledger_scripted_engine 1.0\n"

    async def generate(self, request: Generate) -> AsyncIterator[Chunk]:
        self.requests.append(request)
        self.asked.set()
        functions = () if request.tools is None else request.tools.functions
        if request.sampling.constraint == self.refused_schema:
            raise InvalidSchema("schema refused at #: as the script has it", "response_format")
        if any(function.parameters == REFUSED_PARAMETERS for function in functions):
            raise InvalidToolSchema("schema refused at f#: as the script has it", "tools")
        request_id = request.request_id
        waking = self._waking.setdefault(request_id, asyncio.Event())
        prompt = (await self.count_tokens(CountTokens("", request.messages, request.prompt))).num_tokens
        words = self.words[: request.sampling.max_tokens]
        parser = None if request.tools is None else CallParser(HERMES)
        for number, word in enumerate(words, start=1):
            if number - 1 == self.breaks_after:
                raise Unavailable("The engine stopped; nothing was charged, try again.")
            if number - 1 == self.waits_after_of.get(request_id, self.waits_after):
                self._loop = asyncio.get_running_loop()
                self.is_waiting.set()
                await waking.wait()
            if request_id in self._aborted:
                probe = self.probe if request.probe else None
                yield Chunk(request_id, "", [], prompt, number - 1, "abort", probe)
                return
            is_last = number == len(words)
            reason: FinishReason | None = (
                ("stop" if len(words) == len(self.words) else "length") if is_last else None
            )
            probe = self.probe if is_last and request.probe else None
            logprobs = scripted_logprobs(word, request.sampling.logprobs)
            cached = self.cached_prompt_tokens
            chunk = Chunk(
                request_id, word, list(self.token_ids), prompt, number, reason, probe, cached, logprobs
            )
            yield chunk if parser is None else parsed(chunk, parser)

    async def abort(self, request_id: str) -> None:
        self._aborted.add(request_id)
        self._waking.setdefault(request_id, asyncio.Event()).set()

    async def state(self) -> EngineState:
        if self.is_gone:
            raise Unavailable("The engine is not running; try again.")
        active = frozenset(Hash32(f"0x{asked.adapter.digest}") for asked in self.requests if asked.adapter)
        return EngineState(active, self.max_context, self.weight_format)

    def wake(self) -> None:
        """Resume all waiting generations. Thread-safe."""
        for waking in self._waking.values():
            self._loop.call_soon_threadsafe(waking.set)

    @property
    def aborted(self) -> set[str]:
        return self._aborted


class FakeBlobStore:
    """The part of `BlobStore` that serving uses; `folders` maps a CID to a function that fills its folder."""

    def __init__(self) -> None:
        self.folders: dict[str, Callable[[Path], None]] = {}
        self.num_fetches = 0

    def fetch_folder(self, cid: Cid, destination: Path, max_bytes: int | None = None) -> None:
        self.num_fetches += 1
        destination.mkdir()
        if cid in self.folders:
            self.folders[cid](destination)


class FakeGradients:
    """Scores every answer alike. It can wait until `answers` is set, or fail."""

    def __init__(self) -> None:
        self.requests: list[GradientRequest] = []
        self.scored: Mapping[int, float] = {0: 3.0, 1: 1.0, 2: 9.0, 3: -1.0}
        self.error: DomainError | None = None
        self.answers = threading.Event()
        self.answers.set()

    async def scores(self, request: GradientRequest) -> Sequence[Mapping[int, float]]:
        self.requests.append(request)
        await asyncio.to_thread(self.answers.wait)
        if self.error is not None:
            raise self.error
        return [self.scored for _ in request.folders]

    async def close(self) -> None:
        self.error = Unavailable("closed")
        self.answers.set()


@dataclass
class FakeHeldKeys:
    keys: dict[Account, LocalSigner] = field(default_factory=dict)

    def create(self) -> Account:
        signer = some_key(f"held {len(self.keys)}")
        self.keys[signer.account] = signer
        return signer.account

    def signer(self, key: Account) -> LocalSigner | None:
        return self.keys.get(key)


PARAMETERS = {
    "treasury": some_account("treasury"),
    "feePpm": 50_000,
    "stakeCoverPpm": 100_000,
    "disputeWindow": 86_400,
    "minContributorsPpm": 300_000,
    "minOperatorPpm": 50_000,
    "maxOperatorPpm": 500_000,
    "challengerPpm": 250_000,
}


class FakeChain:
    """The part of `Chain` that routers use; every call is prepared, none reverts."""

    chain_id = CHAIN_ID

    def address(self, contract: str) -> Account:
        return some_account(contract)

    def head(self) -> BlockRef:
        return BlockRef(1, some_hash("block"), some_hash("parent"), int(NOW.timestamp()))

    def call(self, contract: str, function: str, *args: Any, block: int | None = None) -> Any:
        holder = args[0] if args else None
        answers: dict[str, Any] = {
            "current": PARAMETERS,
            "currentId": 0,
            "hasVoted": False,
            "nonces": 0,
            "payoutWalletOf": holder,
            "balanceOf": 5,
            "delegates": holder,
            "getVotes": 0,
            "hashProposal": 1 << 255,
            "quorum": 3,
            "hasRole": (args[-1:] == (some_key("curator").account,), 0),
            "previewSnapshot": (some_hash(f"preview {args}"), some_hash("bits")),
            "state": 1,
        }
        return answers[function]

    def decode(self, to: Account, data: str) -> dict[str, Any]:
        return {"to": to, "data": data}

    def prepare(
        self, contract: str, function: str, *args: Any, sender: Account | None = None, value: int = 0
    ) -> PreparedTransaction:
        decoded = {"contract": contract, "function": function, "args": {}}
        return PreparedTransaction(CHAIN_ID, self.address(contract), "0x", value, decoded, 21_000)


@dataclass
class FakeContractWallets:
    """Contract wallets, each with the only signature that it accepts."""

    signatures: dict[Account, str] = field(default_factory=dict)

    def accepts(self, account: Account, digest: bytes, signature: str) -> bool | None:
        return self.signatures[account] == signature if account in self.signatures else None


class FakeClaims:
    """Earnings from one operator: 4.5 units of the account "earned little", 45 of every other account."""

    def claimable(self, account: Account) -> list[Claimable]:
        scale = 1 if account == some_account("earned little") else 10
        return [Claimable(some_account("operator"), account, scale * 5_500_000, scale * 1_000_000)]

    def prepare(self, operator: Account, account: Account, sender: Account) -> PreparedTransaction:
        return FakeChain().prepare("Settlement", "claim", sender=sender)

    def relay(self, operator: Account, account: Account, min_units: int) -> int:
        (found,) = self.claimable(account)
        if found.units < min_units:
            raise NothingToClaim(f"{account} has less than {min_units} units from {operator}")
        return 7


class FakeRows:
    """Implements `backend.ports.training.SnapshotRows`."""

    def rows(self, _snapshot_id: SnapshotId) -> list[tuple[int, dict[str, str]]]:
        return [(place % 2, {"prompt": f"What is {place}?", "completion": "It is."}) for place in range(40)]

    def licences(self, _snapshot_id: SnapshotId) -> list[str]:
        return ["MIT"]


class FakeTokeniser:
    """Splits at spaces; trains on the completion."""

    def tokenise(self, rows: Rows, config: TrainingConfig, num_examples: int) -> Tokenisation:
        shown = []
        for contribution, row in rows:
            asked, said = row["prompt"].split(), row["completion"].split()
            learnt = [False] * len(asked) + [True] * len(said)
            shown.append(TokenisedRow(contribution, [*asked, *said], learnt))
        tokens, learnt_tokens = (sum(len(row.tokens) for row in shown), sum(sum(r.is_trained) for r in shown))
        return Tokenisation(len(shown), 0, tokens, learnt_tokens, len(shown), shown[:num_examples])
