from __future__ import annotations

from typing import Any

import pytest

from backend.chain.keys import LocalSigner
from backend.domain.hashing import keccak
from backend.domain.registries import Operator
from backend.services.operator.receipt_keys import NoReceiptKey, ReceiptKeys
from tests.support.fakes import FakeHeldKeys
from tests.support.market import some_account

OWN, CONFIGURED = some_account("operator"), LocalSigner(keccak(b"receipt key"))


class View:
    def __init__(self, *keys: str, **retired: int) -> None:
        self.keys, self.retired = keys, retired

    def operator(self, account: str) -> Any:
        assert account == OWN
        return Operator(OWN, "", self.keys, 0, self.retired) if self.keys else None  # type: ignore[arg-type]


@pytest.fixture
def store() -> FakeHeldKeys:
    return FakeHeldKeys()


@pytest.fixture
def keys(store: FakeHeldKeys) -> ReceiptKeys:
    return ReceiptKeys(OWN, lambda: CONFIGURED, lambda: store)


def in_use(keys: ReceiptKeys, *registered: str, **retired: int) -> str:
    view: Any = View(*registered, **retired)
    return keys.in_use(view).account


def test_the_configured_key_is_in_use_until_it_is_retired(keys: ReceiptKeys, store: FakeHeldKeys) -> None:
    newer = store.create()
    assert in_use(keys) == CONFIGURED.account
    assert in_use(keys, CONFIGURED.account, newer) == CONFIGURED.account


def test_the_newest_active_key_of_the_store_follows_a_retired_one(
    keys: ReceiptKeys, store: FakeHeldKeys
) -> None:
    older, newer, unregistered = store.create(), store.create(), store.create()
    registered = (older, CONFIGURED.account, newer, some_account("elsewhere"))
    assert in_use(keys, *registered, **{CONFIGURED.account: 1}) == newer
    assert in_use(keys, *registered, **{CONFIGURED.account: 1, newer: 2}) == older
    assert unregistered not in registered


def test_without_an_active_key_nothing_is_signed(keys: ReceiptKeys, store: FakeHeldKeys) -> None:
    store.create()
    with pytest.raises(NoReceiptKey, match=f"rotate-key {CONFIGURED.account}"):
        in_use(keys, CONFIGURED.account, some_account("elsewhere"), **{CONFIGURED.account: 1})


def test_a_key_counts_for_batches_committed_before_its_retirement() -> None:
    known = Operator(OWN, "", (CONFIGURED.account,), 0, {CONFIGURED.account: 10})
    assert known.is_receipt_key(CONFIGURED.account, 10)
    assert not known.is_receipt_key(CONFIGURED.account, 11)
    assert not known.is_receipt_key(some_account("another"), 9)
    assert known.active_keys == ()
