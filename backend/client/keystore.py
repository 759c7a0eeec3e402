"""Keys of wallets: in memory, and in encrypted files (Web3 Secret Storage, version 3) as Foundry's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eth_account import Account as EthAccount

from backend.disk.files import create_private
from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from backend.domain.ids import Account

if TYPE_CHECKING:
    from collections.abc import Callable

    from eth_account.signers.local import LocalAccount

WALLET_HOME = ".loraledger"
"""Folder in the user's home directory."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PRIVATE_KEY = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")


class Key(Protocol):
    """A private key that may still be locked."""

    @property
    def account(self) -> Account: ...

    def unlock(self) -> LocalAccount:
        """Return the key itself. Errors: `Forbidden` for a wrong password."""


class LocalKey:
    """A private key in memory."""

    def __init__(self, private_key: str | bytes) -> None:
        self._signer: LocalAccount = EthAccount.from_key(private_key)
        self.account = Account(self._signer.address.lower())

    def __repr__(self) -> str:
        return f"LocalKey({self.account})"

    def unlock(self) -> LocalAccount:
        return self._signer


class StoredKey:
    """A keystore file. Its password is asked for when the key is first needed, and the key then kept."""

    def __init__(self, path: Path, password: Callable[[], str]) -> None:
        self._path, self._password = path, password
        self._keystore = read_keystore(path)
        self._unlocked: LocalAccount | None = None

    @property
    def account(self) -> Account:
        """The account that the file names; files without one are decrypted."""
        return stated_account(self._keystore) or Account(self.unlock().address.lower())

    def unlock(self) -> LocalAccount:
        if self._unlocked is None:
            self._unlocked = self._decrypt()
        return self._unlocked

    def _decrypt(self) -> LocalAccount:
        try:
            raw = EthAccount.decrypt(self._keystore, self._password())
        except (ValueError, KeyError, TypeError, NotImplementedError) as error:
            if "MAC mismatch" in str(error):
                raise Forbidden(f"wrong password for {self._path}", param="password") from None
            raise _no_keystore(self._path, str(error)) from error
        found: LocalAccount = EthAccount.from_key(raw)
        if stated_account(self._keystore) not in (None, found.address.lower()):
            raise _no_keystore(self._path, f"it holds the key of another account, {found.address}")
        return found


class Keystores:
    """The folder of keystores by name."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path.home() / WALLET_HOME / "keystores"

    def path(self, name: str) -> Path:
        """File of this name, whether it exists or not. Errors: `InvalidInput`."""
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{name!r} is not a name of a wallet: 1 to 64 letters, digits, '.', '_' and '-', the first a "
                "letter or digit",
                param="account",
            )
        return self.folder / name

    def existing(self, name: str) -> Path:
        """Errors: `NotFound`, which lists the names there are."""
        path = self.path(name)
        if not path.is_file():
            names = ", ".join(self.names()) or "none"
            raise NotFound(
                f"no wallet {name} in {self.folder} (there: {names}); create it with `loraledger wallet "
                "new` or `loraledger wallet import`",
                param="account",
            )
        return path

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        files = (path for path in self.folder.iterdir() if path.is_file())
        return sorted(path.name for path in files if _NAME.fullmatch(path.name))

    def add(self, name: str, private_key: bytes, password: str) -> LocalKey:
        """Encrypt a key into a new file that only its owner can read. Errors: `Conflict` if it exists."""
        path, key = self.path(name), LocalKey(private_key)
        self.refuse_existing(name)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            create_private(path, json.dumps(EthAccount.encrypt(private_key, password)))
        except FileExistsError:
            raise self._exists(path) from None
        return key

    def refuse_existing(self, name: str) -> None:
        """Errors: `Conflict`."""
        if self.path(name).exists():
            raise self._exists(self.path(name))

    @staticmethod
    def _exists(path: Path) -> Conflict:
        return Conflict(f"{path} exists already; wallets are never overwritten", param="account")


def parse_private_key(text: str) -> bytes:
    """Parse 64 hex digits, with or without 0x. Errors: `InvalidInput`, which does not repeat them."""
    found = _PRIVATE_KEY.fullmatch(text.strip())
    if found is None:
        raise InvalidInput("not a private key: 64 hex digits are expected", param="key")
    try:
        return bytes(EthAccount.from_key(found[1]).key)
    except ValueError:
        raise InvalidInput("not a private key of secp256k1", param="key") from None


def read_keystore(path: Path) -> dict[str, Any]:
    """Errors: `NotFound`; `InvalidInput` for a file of another format."""
    if not path.is_file():
        raise NotFound(f"no keystore {path}", param="keystore")
    try:
        raw = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise _no_keystore(path, "it is not JSON") from None
    found = {str(name).lower(): value for name, value in raw.items()} if isinstance(raw, dict) else {}
    if found.get("version") != 3 or not isinstance(found.get("crypto"), dict):
        raise _no_keystore(path, "it has no `crypto` of version 3")
    return found


def stated_account(keystore: dict[str, Any]) -> Account | None:
    """The account that a keystore names; Foundry's files name none."""
    address = keystore.get("address")
    if not isinstance(address, str) or not re.fullmatch("(0x)?[0-9a-fA-F]{40}", address):
        return None
    return Account("0x" + address.removeprefix("0x").lower())


def _no_keystore(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path} is not a keystore of version 3 (Web3 Secret Storage): {why}", param="keystore"
    )
