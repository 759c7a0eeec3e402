"""A fake of the installation that an operator's membership commands open, and how a test types them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from typer.testing import CliRunner

from backend.cli.main import app
from backend.domain.denials import FloorPrice
from backend.domain.hashing import to_hash
from backend.domain.ids import Account
from backend.domain.training_payment import training_record
from backend.domain.transactions import ChainTransaction, TransactionState
from backend.installation.base_model import BaseModelInfo, Offer
from backend.services.operator.key_rotation import Rotation
from backend.services.operator.membership import OperatorStatus, StakeLocked
from backend.services.operator.offers import base_record
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.testing import Result

    from backend.domain.errors import DomainError, Unavailable
    from backend.domain.receipt import VersionRecord

OWN, KEY, NEXT_KEY = some_account("operator"), some_account("receipt key"), some_account("next key")
OTHER_KEY = some_account("other key")
MICRO = 10**12
MINED = to_hash(b"\1" * 32)
WELL = OperatorStatus(
    OWN, "https://market.example", (KEY,), {}, KEY, OWN, 1_000 * MICRO, None, 0, 100 * MICRO, 7 * 10**15, 0
)
BASE = base_record(OWN, some_hash("base"), "Tiny", (200_000, 400_000))
TRAINING = training_record(OWN, some_hash("base"), 300_000)
FACTS = BaseModelInfo("Tiny", some_hash("base"), "/models/Tiny")


class FakeInstallation:
    """Fakes installation, membership and offers; a queued transaction is confirmed at the next look."""

    def __init__(self) -> None:
        self.status_now, self.asked = WELL, list[tuple[Any, ...]]()
        self.queues = ["stake", "addReceiptKey"]
        self.ends_as, self.num_locked = TransactionState.CONFIRMED, 0
        self.num_looks, self.owes = 0, False
        self.outages: list[Unavailable] = []
        """What a withdrawal meets before it reaches the chain."""
        self.refusal: DomainError | None = None
        self.offer = Offer(FACTS, BASE, TRAINING)
        self._known: dict[int, ChainTransaction] = {}

    # the installation

    def prepare_database(self) -> None:
        self.asked.append(("prepare_database",))

    def check_database(self) -> None:
        self.asked.append(("check_database",))

    @property
    def membership(self) -> FakeInstallation:
        return self

    @property
    def offers(self) -> FakeInstallation:
        return self

    @property
    def key_rotation(self) -> FakeInstallation:
        return self

    @property
    def operator_transactions(self) -> FakeInstallation:
        return self

    @property
    def deployment(self) -> Any:
        return SimpleNamespace(chain_id=31337)

    def prepare_offers(self, prices: tuple[int, int]) -> list[Offer]:
        self.asked.append(prices)
        return [self.offer]

    # the services

    def status(self, rotation: Rotation | None = None) -> Any:
        return self.status_now if rotation is None else self.status_of(rotation)

    def join(self, units: int) -> list[ChainTransaction]:
        return self._queued("join", units)

    def rotate(self, keys: Sequence[str]) -> Rotation:
        self.queues = ["addReceiptKey", "retireReceiptKey"]
        queued = self._queued("rotate", *keys)
        return Rotation(tuple(map(Account, keys)), NEXT_KEY, tuple(queued), 3, (OTHER_KEY,), is_indexed=False)

    def status_of(self, rotation: Rotation) -> Rotation:
        self.num_looks += 1
        return replace(rotation, num_unsigned=max(0, 3 - self.num_looks), is_indexed=self.num_looks > 1)

    def unstake(self, amount: int) -> list[ChainTransaction]:
        return self._queued("unstake", amount)

    def restake(self, registry: Account, units: int) -> list[ChainTransaction]:
        return self._queued("restake", registry, units)

    def withdraw(self, *, needs_stake: bool = False) -> list[ChainTransaction]:
        if self.outages:
            raise self.outages.pop()
        self.num_locked -= 1
        if self.num_locked >= 0 and (needs_stake or not self.owes):
            raise StakeLocked("400 dollars can be withdrawn later.")
        return self._queued("withdraw")

    def check(self, record: VersionRecord) -> None:
        self.asked.append(("check", record))
        if self.refusal:
            raise self.refusal

    def set_first_floor(self, bases: Sequence[VersionRecord]) -> FloorPrice:
        self.asked.append(("floor", *bases))
        return FloorPrice(40_000, 80_000)

    def register(self, records: Sequence[VersionRecord]) -> list[ChainTransaction]:
        return self._queued("register", *records)

    def transaction(self, transaction_id: int) -> ChainTransaction:
        return self._known[transaction_id]

    def _queued(self, *asked: Any) -> list[ChainTransaction]:
        self.asked.append(asked)
        if self.refusal:
            raise self.refusal
        return [self._one(function) for function in self.queues]

    def _one(self, function: str) -> ChainTransaction:
        number = len(self._known) + 1
        queued = ChainTransaction(
            number, OWN, "Registry", function, (), "", TransactionState.QUEUED, None, None, None, None, None
        )
        is_failed = self.ends_as is TransactionState.FAILED
        ended = {"error": {"message": "it reverted"}} if is_failed else {"hash": MINED}
        self._known[number] = replace(queued, state=self.ends_as, **ended)
        return queued


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["operator", *arguments])
