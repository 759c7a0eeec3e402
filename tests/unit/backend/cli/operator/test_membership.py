from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.cli.operator import membership
from backend.client import waiting
from backend.domain.denials import FloorPrice
from backend.domain.errors import Conflict, DomainError, InvalidInput, Unavailable
from backend.domain.hashing import to_hash, version_id
from backend.domain.ids import ZERO_ACCOUNT, Account
from backend.domain.money import AMOUNT, PRICE
from backend.domain.training_payment import training_record
from backend.domain.transactions import ChainTransaction, TransactionState
from backend.installation.base_model import BaseModelInfo, Offer
from backend.services.operator.key_rotation import Rotation
from backend.services.operator.membership import OperatorStatus, StakeLocked, Unstaking
from backend.services.operator.offers import base_record
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from click.testing import Result

    from backend.domain.receipt import VersionRecord

OWN, KEY, NEXT_KEY = some_account("operator"), some_account("receipt key"), some_account("next key")
DOLLAR, MICRO = 10**6, 10**12
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
        self.num_looks = 0
        self.refusal: DomainError | None = None
        self.offer = Offer(FACTS, BASE, TRAINING)
        self._known: dict[int, ChainTransaction] = {}

    # the installation

    def prepare_database(self) -> None:
        self.asked.append(("prepare_database",))

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
        return Rotation(tuple(map(Account, keys)), NEXT_KEY, tuple(queued), 3, is_indexed=False)

    def status_of(self, rotation: Rotation) -> Rotation:
        self.num_looks += 1
        return replace(rotation, num_unsigned=max(0, 3 - self.num_looks), is_indexed=self.num_looks > 1)

    def unstake(self, amount: int) -> list[ChainTransaction]:
        return self._queued("unstake", amount)

    def restake(self, registry: Account, units: int) -> list[ChainTransaction]:
        return self._queued("restake", registry, units)

    def withdraw(self) -> list[ChainTransaction]:
        self.num_locked -= 1
        if self.num_locked >= 0:
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


@pytest.fixture
def installation(monkeypatch: pytest.MonkeyPatch) -> FakeInstallation:
    made = FakeInstallation()

    @contextmanager
    def opened() -> Iterator[Any]:
        yield made

    monkeypatch.setattr(membership, "open_installation", opened)
    monkeypatch.setattr(membership, "LOCK_POLL_SECONDS", 0)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0)

    return made


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["operator", *arguments])


def test_an_operator_that_can_settle_is_shown_with_exit_code_0(installation: FakeInstallation) -> None:
    shown = typed("show")
    assert (shown.exit_code, shown.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in shown.stdout.replace("receipt key", "key").splitlines())
    assert lines == {
        "account": OWN,
        "endpoint": "https://market.example",
        "key": KEY,
        "stake": "1,000 dollars",
        "cover": "1,000 dollars; the next batch needs 100 dollars",
        "owed": "0 dollars",
        "credit": "0.000000000 of the chain's coin",
        "gas": "0.007000000 of the chain's coin",
    }
    assert installation.asked == [("prepare_database",)]  # an operator joins before anything else has run


def test_an_operator_that_cannot_settle_is_shown_with_each_reason_and_exit_code_1(
    installation: FakeInstallation,
) -> None:
    unstaking = Unstaking(1_000 * MICRO, 7)
    installation.status_now = replace(WELL, key_owner=ZERO_ACCOUNT, unstaking=unstaking, wei=0)
    shown = typed("show")
    assert shown.exit_code == 1
    assert shown.stderr.splitlines() == [f"cannot settle: {why}" for why in installation.status_now.obstacles]
    assert len(installation.status_now.obstacles) == 3
    assert f"receipt key  {KEY}, not registered\n" in shown.stdout
    assert "unstaking    1,000 dollars, locked until batch 7 is final" in shown.stdout


def test_json_has_the_apis_amounts_and_the_same_exit_code(installation: FakeInstallation) -> None:
    well = {
        "account": OWN,
        "endpoint": "https://market.example",
        "keys": [KEY],
        "retired_keys": {},
        "receipt_key": KEY,
        "is_key_registered": True,
        "stake": {"micro_units": "1000000000000000", "usd": "1000"},
        "unstaking": None,
        "cover": {"micro_units": "1000000000000000", "usd": "1000"},
        "cover_needed": {"micro_units": "100000000000000", "usd": "100"},
        "owed": {"micro_units": "0", "usd": "0"},
        "credit_wei": "0",
        "wei": "7000000000000000",
        "obstacles": [],
    }
    shown = typed("show", "--json")
    assert (shown.exit_code, json.loads(shown.stdout)) == (0, well)
    installation.status_now = replace(WELL, unstaking=Unstaking(MICRO, None), wei=0)
    shown = typed("show", "--json")
    unstaking = {"amount": AMOUNT.render(MICRO), "locked_by": None}
    expected = {"unstaking": unstaking, "cover": AMOUNT.render(999 * MICRO), "wei": "0"}
    assert shown.exit_code == 1
    assert json.loads(shown.stdout) == well | expected | {
        "obstacles": list(installation.status_now.obstacles)
    }


def test_joining_lists_queued_transactions_and_with_wait_their_end(installation: FakeInstallation) -> None:
    queued = ["transaction 1, Registry.stake, is queued", "transaction 2, Registry.addReceiptKey, is queued"]
    assert typed("join", "--stake", "1000.5").stdout.splitlines() == queued
    assert installation.asked[-1] == ("join", 1_000_500_000)
    waited = typed("join", "--stake", "1", "--wait")
    assert waited.exit_code == 0
    assert waited.stdout.splitlines()[2:] == [
        f"transaction 3, Registry.stake, is confirmed: {MINED}",
        f"transaction 4, Registry.addReceiptKey, is confirmed: {MINED}",
    ]


def test_joining_again_has_nothing_to_do(installation: FakeInstallation) -> None:
    installation.queues = []
    for more in ([], ["--wait"]):
        assert typed("join", "--stake", "1", *more).stdout == "nothing to do\n"


def test_waiting_for_a_failed_transaction_shows_the_reason(installation: FakeInstallation) -> None:
    installation.ends_as = TransactionState.FAILED
    for command in (
        ["join", "--stake", "1"],
        ["unstake", "1"],
        ["withdraw"],
        ["base", "--prices", "1", "0.000002"],
    ):
        failed = typed(*command, "--wait").exception
        assert isinstance(failed, Conflict)
        assert "Registry.stake, failed: it reverted" in str(failed)


def test_waiting_without_a_sender_asks_to_start_it(
    installation: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "CONFIRMED_SECONDS", 0)
    installation.ends_as = TransactionState.SENT
    waited = typed("join", "--stake", "1", "--wait").exception
    assert isinstance(waited, Unavailable)
    assert "check that `loraledger send` is running" in str(waited)


@pytest.mark.parametrize(
    "command",
    [["join", "--stake", "1"], ["unstake", "1"], ["withdraw"], ["base", "--prices", "1", "0.000002"]],
)
def test_a_services_refusal_is_the_commands_error(installation: FakeInstallation, command: list[str]) -> None:
    installation.refusal = Conflict("Send it the network's coin.")
    refused = typed(*command)
    assert refused.exit_code == 1
    assert refused.exception is installation.refusal
    assert "is queued" not in refused.output


@pytest.mark.parametrize(
    "command",
    [
        *(["join", "--stake", "1e3"], ["join", "--stake", "0.0000001"], ["join"]),
        *(["unstake", "-1"], ["unstake", "1,5"], ["base", "--prices", "1"]),
    ],
)
def test_invalid_arguments_are_wrong_usage(installation: FakeInstallation, command: list[str]) -> None:
    assert typed(*command).exit_code == 2
    assert installation.asked == []


def test_unstake_with_wait_withdraws_as_soon_as_the_stake_is_unlocked(installation: FakeInstallation) -> None:
    installation.queues, installation.num_locked = ["startUnstake"], 3
    assert typed("unstake", "400").stdout == "transaction 1, Registry.startUnstake, is queued\n"
    assert installation.asked[-1] == ("unstake", 400 * MICRO)
    assert typed("unstake", "400", "--wait").exit_code == 0
    assert installation.asked[-1] == ("withdraw",)
    assert installation.num_locked == -1


def test_restake_names_the_registry_and_token_units(installation: FakeInstallation) -> None:
    installation.queues, registry = ["restake"], some_account("next registry")
    done = typed("restake", "400.5", "--registry", registry)
    assert done.stdout == "transaction 1, Registry.restake, is queued\n"
    assert installation.asked == [("prepare_database",), ("restake", registry, 400_500_000)]
    assert "is confirmed" in typed("restake", "1", "--registry", registry, "--wait").stdout
    assert isinstance(typed("restake", "1", "--registry", "0x12").exception, InvalidInput)
    assert typed("restake", "1").exit_code == 2


def test_cancelling_an_unstake_does_not_wait(installation: FakeInstallation) -> None:
    assert typed("unstake", "0", "--wait").exit_code == 0
    assert installation.asked[-1] == ("unstake", 0)


def test_withdrawing_does_not_wait_for_locked_stake(installation: FakeInstallation) -> None:
    installation.num_locked = 1
    assert isinstance(typed("withdraw", "--wait").exception, StakeLocked)
    assert typed("withdraw", "--wait").exit_code == 0
    assert installation.asked[-1] == ("withdraw",)


def test_the_base_model_is_shown_with_the_records_it_is_sold_by(installation: FakeInstallation) -> None:
    installation.queues = ["register"]
    done = typed("base", "--prices", "0.2", "0.40")
    prices = "0.2 and 0.4 dollars per million prompt and completion tokens"
    floor = "0.04 and 0.08 dollars per million prompt and completion tokens"
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"floor price  {floor}, of what the operator earns",
        f"base model   Tiny, sha-256 {FACTS.digest[2:]}, in /models/Tiny",
        f"answers      {prices}, by version {version_id(BASE)}",
        f"training     0.3 dollars per million tokens trained, by version {version_id(TRAINING)}",
        "transaction 1, Registry.register, is queued",
    ]
    assert installation.asked == [
        ("prepare_database",),
        (200_000, 400_000),
        ("check", BASE),
        ("floor", BASE),
        ("register", BASE, TRAINING),
    ]
    installation.offer = Offer(FACTS, BASE, None)
    assert "training     free\n" in typed("base", "--prices", "0.2", "0.40").stdout
    assert installation.asked[-1] == ("register", BASE)


def test_only_json_is_on_standard_output(installation: FakeInstallation) -> None:
    installation.queues = ["register"]
    done = typed("base", "--prices", "0.2", "0.40", "--json")
    one = {"id": 1, "contract": "Registry", "function": "register", "state": "queued", "hash": None}
    expected = {
        "name": "Tiny",
        "digest": FACTS.digest,
        "folder": "/models/Tiny",
        "prompt_price": {"micro_units_per_token": "200000", "usd_per_million_tokens": "0.2"},
        "completion_price": {"micro_units_per_token": "400000", "usd_per_million_tokens": "0.4"},
        "min_prompt_price": PRICE.render(40_000),
        "min_completion_price": PRICE.render(80_000),
        "version_id": version_id(BASE),
        "training_price": {"micro_units_per_token": "300000", "usd_per_million_tokens": "0.3"},
        "training_version_id": version_id(TRAINING),
        "transactions": [one],
    }
    assert json.loads(done.stdout) == expected
    assert done.stderr == "transaction 1, Registry.register, is queued\n"
    waited = json.loads(typed("base", "--prices", "0.2", "0.40", "--json", "--wait").stdout)
    assert waited["transactions"] == [one | {"id": 2, "state": "confirmed", "hash": MINED}]
    installation.queues, installation.offer = [], Offer(FACTS, BASE, None)
    free = json.loads(typed("base", "--prices", "0.2", "0.40", "--json").stdout)
    assert free["training_price"] == PRICE.render(0)
    assert (free["training_version_id"], free["transactions"]) == (None, [])


def test_help_names_the_units_of_prices() -> None:
    help_text = " ".join(
        CliRunner().invoke(app, ["operator", "base", "--help"], env={"COLUMNS": "200"}).stdout.split()
    )
    assert "dollars per million prompt tokens, and completion tokens" in help_text


def test_a_rotation_is_queued_and_shown(installation: FakeInstallation) -> None:
    shown = typed("rotate-key", KEY)
    assert (shown.exit_code, installation.asked[-1]) == (0, ("rotate", KEY))
    assert shown.stdout.splitlines() == [
        "transaction 1, Registry.addReceiptKey, is queued",
        "transaction 2, Registry.retireReceiptKey, is queued",
        f"retired key  {KEY}",
        f"next key     {NEXT_KEY}, in use once both transactions are confirmed and indexed",
        "receipts     3 unsettled ones are still to be signed again",
    ]


def test_a_rotation_is_waited_for_until_all_receipts_are_signed_again(installation: FakeInstallation) -> None:
    shown = typed("rotate-key", KEY, "--wait")
    assert (shown.exit_code, installation.num_looks) == (0, 3)
    assert shown.stdout.splitlines()[-3:] == [
        f"next key     {NEXT_KEY}, in use",
        "receipts     0 unsettled ones are still to be signed again",
        f"set LORALEDGER_RECEIPT_KEY={NEXT_KEY} before the processes are started again",
    ]


def test_a_rotation_as_json(installation: FakeInstallation) -> None:
    shown = typed("rotate-key", KEY, "--json")
    assert json.loads(shown.stdout) == {
        "retiring": [KEY],
        "next_key": NEXT_KEY,
        "is_in_use": False,
        "receipts_to_sign": 3,
        "is_done": False,
        "transactions": [1, 2],
    }
    assert installation.asked[-1] == ("rotate", KEY)


def test_retired_and_other_keys_are_shown(installation: FakeInstallation) -> None:
    installation.status_now = replace(WELL, keys=(NEXT_KEY, OWN, KEY), retired={NEXT_KEY: 1_800_000_000})
    shown = typed("show")
    assert f"retired key  {NEXT_KEY}, since 2027-01-15 08:00:00 UTC\nother key    {OWN}\n" in shown.stdout
    installation.status_now = replace(WELL, retired={KEY: 1_800_000_000})
    assert f"`loraledger operator rotate-key {KEY}` registers the next one" in typed("show").stderr
