from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import LocalSigner, recover
from backend.domain.chain import Reverted
from backend.domain.errors import Conflict, InvalidInput
from backend.domain.hashing import TypedDomain, keccak
from backend.domain.ids import ZERO_ACCOUNT
from backend.domain.registries import Operator
from backend.services.operator.key_rotation import KeyRotation, Rotation
from backend.services.operator.receipt_keys import ReceiptKeys
from tests.support.databases import ViewDatabase
from tests.support.fakes import FakeHeldKeys
from tests.support.market import CHAIN_ID, some_account

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account

OWN, KEY = some_account("operator"), LocalSigner(keccak(b"receipt key"))
DOMAIN = TypedDomain(CHAIN_ID, some_account("OperatorRegistry"))
NOW = 1_800_000_000


class Registry:
    """The operator registry, and the index of its events, which may lag."""

    def __init__(self) -> None:
        self.owner: dict[Account, Account] = {KEY.account: OWN}
        self.retired: dict[Account, int] = {}
        self.cooling_until = 0
        self.indexed = Operator(OWN, "", (KEY.account,), 0)

    def index(self) -> None:
        self.indexed = Operator(OWN, "", tuple(self.owner), 0, dict(self.retired))

    def operator(self, account: Account) -> Operator:
        assert account == OWN
        return self.indexed

    def balance(self, _account: Account) -> int:
        return 1

    def call(self, _contract: str, function: str, key: Account) -> Any:
        by_function: dict[str, Any] = {"operatorOfKey": self.owner, "retiredAt": self.retired}
        return by_function[function].get(key, ZERO_ACCOUNT if function == "operatorOfKey" else 0)

    def prepare(self, _contract: str, function: str, *_args: Any, sender: Account) -> None:
        assert sender == OWN
        if function == "retireReceiptKey" and self.cooling_until:
            error = "KeyRetirementCoolingDown"
            raise Reverted(error, error=error, args_by_name={"until": str(self.cooling_until)})


class Harness:
    def __init__(self, database: Database) -> None:
        self.registry, self.store = Registry(), FakeHeldKeys()
        self.chain: Any = self.registry
        self.db = ViewDatabase(database, self.registry)

    def rotate(self, *keys: Account) -> Rotation:
        """By a new process."""
        keys = keys or (KEY.account,)
        return self._rotation().rotate(keys)

    def status(self, rotation: Rotation) -> Rotation:
        return self._rotation().status(rotation)

    def _rotation(self) -> KeyRotation:
        used = ReceiptKeys(OWN, lambda: KEY, lambda: self.store)
        return KeyRotation(self.db, self.chain, OWN, used, DOMAIN)

    def mine(self, count: int = 10) -> None:
        """The first transactions take effect."""
        with self.db.begin() as tx:
            for row in tx.transactions.not_failed(OWN, "OperatorRegistry", "addReceiptKey")[:count]:
                self.registry.owner[row.args[0]] = OWN
                tx.transactions.mark_confirmed(row.id)
            if count > 1:
                for row in tx.transactions.not_failed(OWN, "OperatorRegistry", "retireReceiptKey"):
                    self.registry.retired[row.args[0]] = NOW
                    tx.transactions.mark_confirmed(row.id)

    def queued(self) -> list[tuple[str, Account]]:
        with self.db.read() as tx:
            calls = ("addReceiptKey", "retireReceiptKey")
            found = [tx.transactions.not_failed(OWN, "OperatorRegistry", call) for call in calls]
            return [(one.function, one.args[0]) for group in found for one in group]


@pytest.fixture
def harness(sqlite_database: Database) -> Harness:
    return Harness(sqlite_database)


def test_a_rotation_registers_a_new_key_before_it_retires_the_old_one(harness: Harness) -> None:
    rotation = harness.rotate()
    add, retire = rotation.transactions
    assert (add.function, retire.function) == ("addReceiptKey", "retireReceiptKey")
    assert add.id < retire.id
    key, consent = add.args
    assert key == rotation.next_key in harness.store.keys
    assert recover(DOMAIN.receipt_key_digest(OWN), consent) == key
    assert retire.args == (KEY.account,)
    assert not rotation.is_done


def test_a_repeated_rotation_continues_at_every_step(harness: Harness) -> None:
    rotation = harness.rotate()
    expected = [("addReceiptKey", rotation.next_key), ("retireReceiptKey", KEY.account)]
    assert harness.rotate() == rotation
    harness.mine(1)  # the registration only
    assert harness.rotate().next_key == rotation.next_key
    harness.mine()
    assert harness.rotate().next_key == rotation.next_key  # mined, and not indexed
    assert not harness.status(rotation).is_done
    harness.registry.index()
    again = harness.rotate()
    assert (again.next_key, again.transactions, again.is_done) == (rotation.next_key, (), True)
    assert harness.status(rotation).is_done
    assert harness.queued() == expected
    assert len(harness.store.keys) == 1


def test_a_key_file_of_a_command_that_died_harms_nothing(harness: Harness) -> None:
    harness.store.create()
    rotation = harness.rotate()
    harness.mine()
    harness.registry.index()
    assert harness.rotate().next_key == rotation.next_key


def test_a_registered_key_of_the_store_is_the_next_one(harness: Harness) -> None:
    known = harness.store.create()
    harness.registry.owner[known] = OWN
    harness.registry.index()
    rotation = harness.rotate()
    assert rotation.next_key == known
    assert harness.queued() == [("retireReceiptKey", KEY.account)]


def test_retiring_an_older_key_leaves_the_one_in_use(harness: Harness) -> None:
    older = some_account("older key")
    harness.registry.owner[older] = OWN
    harness.registry.index()
    assert harness.rotate(older).next_key == KEY.account
    assert harness.queued() == [("retireReceiptKey", older)]


def test_all_keys_of_a_leaked_key_store_are_retired_together(harness: Harness) -> None:
    known = harness.store.create()
    harness.registry.owner[known] = OWN
    harness.registry.index()
    rotation = harness.rotate(KEY.account, known)
    assert rotation.next_key not in (KEY.account, known)
    assert [call for call, _ in harness.queued()] == ["addReceiptKey"] + 2 * ["retireReceiptKey"]


def test_a_key_of_another_operator_is_refused(harness: Harness) -> None:
    with pytest.raises(InvalidInput, match="is not a receipt key of"):
        harness.rotate(some_account("other key"))
    assert harness.queued() == []


def test_no_key_is_retired_while_a_commit_is_pending(harness: Harness) -> None:
    with harness.db.begin() as tx:
        tx.transactions.enqueue(OWN, "Settlement", "commit", (), "commit")
    with pytest.raises(Conflict, match="repeat this once it is mined"):
        harness.rotate()
    assert harness.queued() == []


def test_the_end_of_the_cool_down_is_named(harness: Harness) -> None:
    harness.registry.cooling_until = NOW
    with pytest.raises(Conflict, match="from 2027-01-15 08:00:00 UTC on"):
        harness.rotate()
    assert harness.queued() == []


def test_other_registered_keys_are_named_whether_their_files_are_here_or_not(harness: Harness) -> None:
    """As after a restore, if the key of the backup had been rotated since."""
    first = harness.rotate()
    harness.mine()
    harness.registry.index()
    lost = harness.store.keys.pop(first.next_key)
    harness.store.keys[KEY.account] = lost  # so that the next key is another one
    again = harness.rotate()
    assert again.next_key != first.next_key
    assert again.others == (first.next_key,)
