"""An installation's serving side on a real database: the chain's view and the engine are scripted here."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backend.api.services import Services
from backend.chain.keys import LocalSigner, recover
from backend.domain.chain import (
    BlockRef,
    Channel,
    Contribution,
    Datanet,
    Demanded,
    Grant,
    Operator,
    PreparedTransaction,
    Proposal,
    RegisteredVersion,
    Snapshot,
)
from backend.domain.errors import Unavailable
from backend.domain.hashing import TypedDomain, keccak, to_hash, version_id
from backend.domain.ids import ZERO_HASH, Account, DatanetId, Hash32, SnapshotId, VersionId
from backend.domain.receipt import VersionRecord
from backend.ports.engine import Chat, FinishReason, Piece, PromptSize, Turn
from backend.services.adapters import AdapterFolders
from backend.services.admission import Admission, Market
from backend.services.attribute import HiddenCosine, Uniform
from backend.services.catalogue import BaseModel, Catalogue
from backend.services.channels import Channels
from backend.services.claim import Claimable, NothingToClaim
from backend.services.contribute import Contributions
from backend.services.deposit import Deposits
from backend.services.generate import Generate, GenerateLimits
from backend.services.govern import Governance
from backend.services.keys import ApiKeys
from backend.services.publish import Publication
from backend.services.receipts import Receipts
from backend.services.registry import Registry
from backend.services.sign_in import SignIn, SignInPolicy
from backend.services.snapshot import Snapshots
from backend.services.staging import Staging
from backend.services.train import Training
from backend.storage.embedded import EmbeddedStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from backend.db.unit_of_work import Database, Work
    from backend.domain.ids import ChannelId, Cid

CHAIN_ID = 31337
ORIGIN = "http://127.0.0.1:8000"
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
EXPIRY = int((NOW + timedelta(days=1)).timestamp())


def some_hash(label: str) -> Hash32:
    return to_hash(keccak(label.encode()))


def some_account(label: str) -> Account:
    return Account(some_hash(label)[:42])


def some_key(label: str) -> LocalSigner:
    return LocalSigner(keccak(label.encode()))


@dataclass
class Clock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class View:
    """The part of `ChainView` that serving reads; its last block is `lag_seconds` old."""

    clock: Clock = field(default_factory=Clock)
    lag_seconds: int = 0
    versions_list: list[RegisteredVersion] = field(default_factory=list)
    channels: dict[ChannelId, Channel] = field(default_factory=dict)
    granted: dict[ChannelId, list[Grant]] = field(default_factory=dict)
    settled_lines: dict[ChannelId, int] = field(default_factory=dict)
    """How far channels are finally collected; as far as they are collected where none is named."""
    snapshots: dict[SnapshotId, Snapshot] = field(default_factory=dict)
    committed: list[Any] = field(default_factory=list)
    demanded: list[Demanded] = field(default_factory=list)
    datanet_list: list[Datanet] = field(default_factory=list)
    recorded: list[Contribution] = field(default_factory=list)
    proposal_list: list[Proposal] = field(default_factory=list)
    operator_list: list[Operator] = field(default_factory=list)

    def cursor(self) -> BlockRef:
        instant = int(self.clock().timestamp()) - self.lag_seconds
        return BlockRef(9, some_hash("block 9"), some_hash("block 8"), instant)

    def datanets(self) -> list[Datanet]:
        return self.datanet_list

    def datanet(self, datanet: DatanetId) -> Datanet | None:
        return next((known for known in self.datanet_list if known.id == datanet), None)

    def contributions(self, datanet: DatanetId) -> list[Contribution]:
        return [known for known in self.recorded if known.datanet == datanet]

    def operators(self) -> list[Operator]:
        return self.operator_list

    def proposals(self) -> list[Proposal]:
        return self.proposal_list

    def proposal(self, proposal: int) -> Proposal | None:
        return next((known for known in self.proposal_list if known.id == proposal), None)

    def channel(self, channel: ChannelId) -> Channel | None:
        return self.channels.get(channel)

    def settled(self, channel: ChannelId) -> int:
        found = self.channels.get(channel)
        return self.settled_lines.get(channel, found.collected if found else 0)

    def open_demands(self, operator: Account) -> list[Demanded]:
        return [found for found in self.demanded if found.operator == operator]

    def grants(self, channel: ChannelId) -> list[Grant]:
        return self.granted.get(channel, [])

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

    def register(self, record: VersionRecord, *, is_deprecated: bool = False) -> VersionId:
        number = version_id(record)
        self.versions_list.append(RegisteredVersion(number, record, is_deprecated, len(self.versions_list)))
        return number


class ScriptedEngine:
    """Says its words one by one. It can wait, break in the middle, or be gone."""

    def __init__(self) -> None:
        self.words: Sequence[str] = ("Hello", " there", ", world", ".")
        self.max_context = 128
        self.counted: list[Sequence[Turn]] = []
        self.breaks_after: int | None = None
        self.is_gone = False
        self.waits_after: int | None = None
        self.probe: Sequence[float] = (1.0, 0.0, 0.0)
        self.chats: list[Chat] = []
        self.asked = asyncio.Event()
        self.is_waiting = threading.Event()
        """Set where it waits, for tests on other threads."""
        self._waking: dict[str, asyncio.Event] = {}
        self._aborted: set[str] = set()

    async def count_tokens(self, turns: Sequence[Turn]) -> PromptSize:
        if self.is_gone:
            raise Unavailable("The engine is not running; try again.")
        self.counted.append(turns)
        return PromptSize(sum(len(turn.content.split()) for turn in turns), self.max_context)

    async def answer(self, chat: Chat) -> AsyncIterator[Piece]:
        self.chats.append(chat)
        self.asked.set()
        waking = self._waking.setdefault(chat.id, asyncio.Event())
        prompt = (await self.count_tokens(chat.turns)).num_tokens
        words = self.words[: chat.sampling.max_tokens]
        for number, word in enumerate(words, start=1):
            if number - 1 == self.breaks_after:
                raise Unavailable("The engine stopped; nothing was charged, try again.")
            if number - 1 == self.waits_after:
                self.is_waiting.set()
                await waking.wait()
            if chat.id in self._aborted:
                yield Piece("", prompt, number - 1, "abort", self.probe if chat.probe else None)
                return
            is_last = number == len(words)
            reason: FinishReason | None = (
                ("stop" if len(words) == len(self.words) else "length") if is_last else None
            )
            yield Piece(word, prompt, number, reason, self.probe if is_last and chat.probe else None)

    async def abort(self, chat_id: str) -> None:
        self._aborted.add(chat_id)
        self._waking.setdefault(chat_id, asyncio.Event()).set()

    async def active_adapters(self) -> Sequence[Hash32]:
        if self.is_gone:
            raise Unavailable("The engine is not running; try again.")
        return [chat.adapter.digest for chat in self.chats if chat.adapter]

    @property
    def aborted(self) -> set[str]:
        return self._aborted


class FolderStore:
    """The part of `BlobStore` that serving uses; `write` fills a folder."""

    def __init__(self) -> None:
        self.folders: dict[str, Callable[[Path], None]] = {}
        self.num_fetches = 0

    def fetch_folder(self, cid: Cid, destination: Path, max_bytes: int | None = None) -> None:
        self.num_fetches += 1
        destination.mkdir()
        if cid in self.folders:
            self.folders[cid](destination)


@dataclass
class HeldKeys:
    keys: dict[Account, LocalSigner] = field(default_factory=dict)

    def create(self) -> Account:
        signer = some_key(f"held {len(self.keys)}")
        self.keys[signer.account] = signer
        return signer.account

    def held(self, key: Account) -> LocalSigner | None:
        return self.keys.get(key)


class PlayedChain:
    """The part of `Chain` that routers reach; every call is prepared, none is refused."""

    chain_id = CHAIN_ID

    def address(self, contract: str) -> Account:
        return some_account(contract)

    def head(self) -> BlockRef:
        return BlockRef(1, some_hash("block"), some_hash("parent"), int(NOW.timestamp()))

    def call(self, contract: str, function: str, *args: Any, block: int | None = None) -> Any:
        holder = args[0]
        answers: dict[str, Any] = {
            "nonces": 0,
            "balanceOf": 5,
            "delegates": holder,
            "getVotes": 0,
            "hashProposal": 1 << 255,
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


class PlayedClaims:
    """Earnings from one operator: 4.5 units of the one who earned little, 45 of everybody else."""

    def claimable(self, account: Account) -> list[Claimable]:
        scale = 1 if account == some_account("earned little") else 10
        return [Claimable(some_account("operator"), account, scale * 5_500_000, scale * 1_000_000)]

    def prepare(self, operator: Account, account: Account, sender: Account) -> PreparedTransaction:
        return PlayedChain().prepare("Settlement", "claim", sender=sender)

    def relay(self, operator: Account, account: Account, min_units: int) -> int:
        (found,) = self.claimable(account)
        if found.units < min_units:
            raise NothingToClaim(f"{account} has less than {min_units} units from {operator}")
        return 7


class Installation:
    """One operator with a base model, one adapter by three contributors, and one payer."""

    def __init__(self, folder: Path, database: Database, chain: Any = None) -> None:
        self.database = database
        self.blobs = EmbeddedStore(folder / "ipfs", is_durable=False)
        self.clock, self.engine, self.store = Clock(), ScriptedEngine(), FolderStore()
        self.view = View(self.clock)
        self.folder = folder
        self.elsewhere: set[Cid] = set()
        self.payer, self.receipt_key, self.held_keys = some_key("payer"), some_key("receipts"), HeldKeys()
        self.operator, self.settlement = some_account("operator"), some_account("settlement")
        self.domain = TypedDomain(CHAIN_ID, self.settlement)
        self.vault_domain = TypedDomain(CHAIN_ID, some_account("vault"))
        self.market = Market(self.operator, self.settlement, self.domain)
        self.channel = self.market.channel(self.payer.account)
        self.base_version, self.version = self._register()
        self._build(folder, chain or PlayedChain())

    @contextmanager
    def begin(self) -> Iterator[Work]:
        with self.database.begin() as tx:
            tx.chain = self.view  # type: ignore[assignment]
            yield tx

    @contextmanager
    def read(self) -> Iterator[Work]:
        with self.database.read() as tx:
            tx.chain = self.view  # type: ignore[assignment]
            yield tx

    def fund(self, balance: int, cap: int | None = None, *, thawing: int = 0, collected: int = 0) -> None:
        """A channel with this balance and a held session key up to `cap` (default: all of it)."""
        self.view.channels[self.channel] = Channel(
            id=self.channel,
            payer=self.payer.account,
            operator=self.operator,
            collector=self.settlement,
            balance=balance,
            collected=collected,
            thawing=thawing,
            thawed_at=0,
        )
        with self.begin() as tx:
            held = tx.channels.held_keys(self.channel)
            key = held[0] if held else self.held_keys.create()
            if not held:
                tx.channels.add_held_key(self.channel, key)
        cap = balance + collected if cap is None else cap
        self.view.granted[self.channel] = [Grant(self.channel, key, cap, EXPIRY, None)]

    def revoke_session(self) -> None:
        now = int(self.clock().timestamp())
        self.view.granted[self.channel] = [
            replace(grant, revoked_at=now) for grant in self.view.grants(self.channel)
        ]

    def generating(self, answer_seconds: float) -> Generate:
        read: Any = self.read
        store: Any = self.store
        return Generate(
            read,
            self.catalogue,
            AdapterFolders(store, self.folder / "adapters"),
            self.engine,
            self.admission,
            (HiddenCosine(), Uniform()),
            GenerateLimits(default_max_tokens=16, answer_seconds=answer_seconds),
        )

    def _register(self) -> tuple[VersionId, VersionId]:
        base = VersionRecord(
            creator=self.operator,
            name="base",
            adapter_digest=ZERO_HASH,
            cid_digest=ZERO_HASH,
            base_model=some_hash("base model"),
            snapshots=(),
            prompt_price=1,
            completion_price=2,
            operator_ppm=200_000,
            creator_ppm=0,
        )
        snapshot = SnapshotId(some_hash("snapshot"))
        self.view.snapshots[snapshot] = Snapshot(snapshot, DatanetId(7), 4, some_hash("bits"), (0, 1, 3), 1)
        adapter = replace(
            base,
            creator=some_account("creator"),
            name="docs",
            adapter_digest=some_hash("adapter"),
            cid_digest=some_hash("folder"),
            snapshots=(snapshot,),
            prompt_price=10,
            completion_price=20,
        )
        return self.view.register(base), self.view.register(adapter)

    def _build(self, folder: Path, chain: Any) -> None:
        begin: Any = self.begin
        read: Any = self.read
        claims: Any = PlayedClaims()
        self.catalogue = Catalogue(read, BaseModel(some_hash("base model"), "tiny", self.operator))
        self.admission = Admission(begin, read, self.market, self.receipt_key, self.clock, 900, 60)
        self.generate = self.generating(answer_seconds=60)
        self.services = Services(
            sign_in=SignIn(begin, read, recover, self.clock, SignInPolicy((ORIGIN,), CHAIN_ID)),
            keys=ApiKeys(begin, read, self.clock),
            catalogue=self.catalogue,
            generate=self.generate,
            channels=Channels(begin, read, self.market, self.vault_domain, recover, self.clock),
            deposits=Deposits(begin, read, chain, self.market, self.held_keys, self.clock),
            receipts=Receipts(read),
            registry=Registry(read, chain, self.blobs),
            contributions=Contributions(
                begin, read, self.blobs, chain, recover, Staging(folder / "uploads", 1000), self.operator
            ),
            snapshots=Snapshots(begin, read, self.blobs, chain, self.operator),
            training=Training(begin, read, self.clock),
            publication=Publication(begin, self.blobs, chain, self.clock),
            claims=claims,
            governance=Governance(chain, read),
            blobs=self.blobs,
            is_here=lambda cid: cid not in self.elsewhere,
            readiness=dict,
        )
