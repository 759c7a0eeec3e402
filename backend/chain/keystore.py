"""The encrypted key files of one installation, each opened once."""

from __future__ import annotations

import logging
import secrets
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

from backend.chain.keys import create_key, open_key, write_once
from backend.domain.errors import Forbidden, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from backend.chain.keys import LocalSigner
    from backend.domain.ids import Account
    from backend.ports.chain import Signer

log = logging.getLogger(__name__)


class KeyStore:
    """Implements `backend.ports.chain.SessionKeys`: session keys, and the operator's own elsewhere."""

    def __init__(self, root: Path, password: str) -> None:
        self._root = root
        self._password = password
        self._opened: dict[Account, LocalSigner] = {}  # scrypt takes a second by design

    def create(self) -> Account:
        signer = create_key(self._root, self._password)
        self._opened[signer.account] = signer
        return signer.account

    def open(self, account: Account) -> Signer:
        """`NotFound` without such a key, `Forbidden` for a wrong password."""
        if account not in self._opened:
            self._opened[account] = open_key(self._root, account, self._password)
        return self._opened[account]

    def held(self, key: Account) -> Signer | None:
        """None also for a key that cannot be opened: one broken file must not stop what others pay for."""
        try:
            return self.open(key)
        except NotFound:
            return None
        except (Forbidden, OSError) as error:
            log.warning("the session key %s is left out: %s", key, error)
            return None


def password_beside(root: Path) -> str:
    """The local network's way: a random password in a file that only its owner reads. It warns, since whoever
    takes the folder takes the keys.
    """
    warnings.warn(
        f"the key store's password lies beside it in {root}; set one outside a local network", stacklevel=2
    )
    path = root / "password"
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        with suppress(FileExistsError):  # another process was faster
            write_once(path, secrets.token_urlsafe(32))
    return path.read_text()
