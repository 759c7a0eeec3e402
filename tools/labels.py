"""Hashes, accounts and keys from labels, for the made-up markets of tools, benchmarks and tests."""

from __future__ import annotations

from backend.chain.keys import LocalSigner
from backend.domain.hashing import keccak, to_hash
from backend.domain.ids import Account, Hash32


def some_hash(label: str) -> Hash32:
    return to_hash(keccak(label.encode()))


def some_account(label: str) -> Account:
    return Account(some_hash(label)[:42])


def some_key(label: str) -> LocalSigner:
    return LocalSigner(keccak(label.encode()))
