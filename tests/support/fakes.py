"""Fakes of the clock, chain, blob store, key store and gradients."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backend.domain.chain import BlockRef
from backend.domain.errors import DomainError, Unavailable
from backend.domain.money import GWEI
from backend.domain.transactions import PreparedTransaction
from backend.services.accounts.claims import Claimable, ClaimablePage, NothingToClaim
from backend.services.train.estimate import Tokenisation, TokenisedRow
from tests.support.market import CHAIN_ID
from tools.labels import some_account, some_hash, some_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from backend.chain.keys import LocalSigner
    from backend.domain.ids import Account, Cid, SnapshotId
    from backend.domain.training import TrainingConfig
    from backend.ports.gradients import GradientRequest
    from backend.services.train.estimate import Rows

ORIGIN = "http://127.0.0.1:8000"
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
EXPIRY = int((NOW + timedelta(days=1)).timestamp())


@dataclass
class FakeClock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class FakeBlobStore:
    """The part of `BlobStore` that serving uses; `folders` maps a CID to a function that fills its folder."""

    def __init__(self) -> None:
        self.folders: dict[str, Callable[[Path], None]] = {}
        self.num_fetches = 0

    def has(self, cid: Cid) -> bool:
        return True

    def names(self, cid: Cid) -> dict[str, int]:
        return {}

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
            "setAt": PARAMETERS,
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

    def gas_price(self) -> int:
        return GWEI

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

    def claimable(self, account: Account, *_: Any) -> ClaimablePage:
        return ClaimablePage((self.claimable_from(some_account("operator"), account),), None)

    def claimable_from(self, operator: Account, account: Account) -> Claimable:
        scale = 1 if account == some_account("earned little") else 10
        return Claimable(operator, account, scale * 5_500_000, scale * 1_000_000)

    def prepare(self, operator: Account, account: Account, sender: Account) -> PreparedTransaction:
        return FakeChain().prepare("Settlement", "claim", sender=sender)

    def relay(self, operator: Account, account: Account, min_units: int, requester: Account) -> int:
        (found,) = self.claimable(account).found
        if found.units < min_units:
            raise NothingToClaim(f"{account} has less than {min_units} units from {operator}")
        return 7


class FakeRows:
    """Implements `backend.ports.training.SnapshotRows`, with as many rows as are asked for."""

    def rows(self, _snapshot_id: SnapshotId) -> list[tuple[int, dict[str, str]]]:
        return [(place % 2, {"prompt": f"What is {place}?", "completion": "It is."}) for place in range(40)]

    def rows_at(self, _snapshot_id: SnapshotId, places: Sequence[int]) -> list[tuple[int, dict[str, str]]]:
        return [(place % 2, {"prompt": f"What is {place}?", "completion": "It is."}) for place in places]

    def licences(self, _snapshot_id: SnapshotId) -> list[str]:
        return ["MIT"]


class FakeTokeniser:
    """Splits at spaces; trains on the completion."""

    def tokenise(self, rows: Rows, config: TrainingConfig, num_examples: int) -> Tokenisation:
        shown = []
        for contribution, row in rows:
            asked, said = (message["content"].split() for message in row["messages"])
            learnt = [False] * len(asked) + [True] * len(said)
            shown.append(TokenisedRow(contribution, [*asked, *said], learnt))
        tokens, learnt_tokens = (sum(len(row.tokens) for row in shown), sum(sum(r.is_trained) for r in shown))
        return Tokenisation(len(shown), 0, tokens, learnt_tokens, len(shown), shown[:num_examples])
