"""Encrypted key files of an installation, with a cache of decrypted keys."""

from __future__ import annotations

import logging
import secrets
import warnings
from typing import TYPE_CHECKING

from backend.chain.keys import create_key, open_key
from backend.disk.files import read_or_create
from backend.domain.errors import Forbidden, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from backend.chain.keys import LocalSigner
    from backend.domain.ids import Account
    from backend.ports.keys import Signer

log = logging.getLogger(__name__)


class KeyStore:
    """Implements `backend.ports.keys.SessionKeys`."""

    def __init__(self, root: Path, password: str) -> None:
        self._root = root
        self._password = password
        self._opened: dict[Account, LocalSigner] = {}  # decryption (scrypt) takes a second by design

    def create(self) -> Account:
        signer = create_key(self._root, self._password)
        self._opened[signer.account] = signer
        return signer.account

    def open(self, account: Account) -> LocalSigner:
        """Open a key. Errors: `NotFound`, `Forbidden` for a wrong password."""
        if account not in self._opened:
            self._opened[account] = open_key(self._root, account, self._password)
        return self._opened[account]

    def signer(self, key: Account) -> Signer | None:
        """Open a key; None if it is missing or cannot be opened, so that other channels still work."""
        try:
            return self.open(key)
        except NotFound:
            return None
        except (Forbidden, OSError) as error:
            log.warning("cannot open the session key %s: %s", key, error)
            return None


def local_password(root: Path) -> str:
    """Password of a local network's key store, generated once and stored in the same folder.

    It warns, because access to the folder is then access to the keys.
    """
    warnings.warn(
        f"the key store's password is stored next to the keys in {root}; set one outside a local network",
        stacklevel=2,
    )
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    return read_or_create(root / "password", lambda: secrets.token_urlsafe(32))
