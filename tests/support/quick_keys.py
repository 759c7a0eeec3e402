"""Keys that are encrypted in no time: scrypt takes a second and 256 MiB by design."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eth_account import Account as EthAccount

if TYPE_CHECKING:
    import pytest


def encrypt_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    encrypt = EthAccount.encrypt
    monkeypatch.setattr(EthAccount, "encrypt", lambda key, password: encrypt(key, password, "pbkdf2", 2))
