"""Ports of keys: what signs with them, and what checks their signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from backend.domain.ids import Account

Recover = Callable[[bytes, str], Account]
"""`recover(digest, signature)`: account that signed the 32 bytes. `InvalidInput` for malformed or high-s
signatures.
"""


class Signer(Protocol):
    """Signs with one secp256k1 key."""

    @property
    def account(self) -> Account: ...

    def sign(self, digest: bytes) -> str:
        """Sign 32 bytes; 65 bytes r, s, v (27 or 28) as 0x-hex, s in the lower half."""
        ...


class TransactionSigner(Protocol):
    """Signs transactions with one secp256k1 key, held in memory or by a service, which may hash by itself."""

    @property
    def account(self) -> Account: ...

    def sign_message(self, message: bytes) -> str:
        """Sign the Keccak-256 hash of the message. Returns as `Signer.sign`. Errors: `Unavailable`."""
        ...


class SessionKeys(Protocol):
    """Encrypted store of the session keys that payers let this gateway hold."""

    def create(self) -> Account:
        """Create a random key and store it before returning its account."""
        ...

    def signer(self, key: Account) -> Signer | None:
        """Signer of the key; None if this installation does not hold it."""
        ...


class ContractWallets(Protocol):
    """Signature checks by contract wallets (EIP-1271)."""

    def accepts(self, account: Account, digest: bytes, signature: str) -> bool | None:
        """Whether the contract at `account` accepts this signature of the 32 bytes; None if there is no
        contract.

        Errors: `InvalidInput` if the signature is too long or no hex; `Unavailable`.
        """
        ...
