"""Signing keys of an installation: operator, receipt key, watcher."""

from __future__ import annotations

import secrets
from functools import cached_property
from typing import TYPE_CHECKING

from backend.chain.keys import local_account
from backend.chain.keystore import KeyStore, local_password
from backend.disk.files import read_or_create
from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.errors import InvalidInput
from backend.domain.ids import Account
from backend.installation.extras import require_extra

if TYPE_CHECKING:
    from backend.chain.keys import LocalSigner
    from backend.ports.keys import Signer, TransactionSigner
    from backend.settings import Settings

LOCAL_OPERATOR, LOCAL_RECEIPT_KEY, LOCAL_WATCHER = 1, 2, 9
"""Indices of the development mnemonic, as in `backend.deployment.local`."""
SIGNER_EXTRAS = {"awskms": "aws", "gcpkms": "gcp"}
MIN_WEBHOOK_KEY = 32
"""Characters."""


class SigningKeys:
    """Keys of the services or the accounts in the key store that settings name, else the local network's
    test keys.

    Errors: `InvalidInput` that names the missing setting, `NotFound` if the store has no key of the account.
    """

    def __init__(self, settings: Settings, chain_id: int) -> None:
        self._settings, self._chain_id = settings, chain_id

    @cached_property
    def operator(self) -> TransactionSigner:
        settings = self._settings
        if settings.operator_signer:
            return self._remote("operator_signer", settings.operator_signer, settings.operator)
        return self._key("operator", settings.operator, LOCAL_OPERATOR)

    @cached_property
    def receipt_key(self) -> Signer:
        return self._key("receipt_key", self._settings.receipt_key, LOCAL_RECEIPT_KEY)

    @cached_property
    def watcher(self) -> TransactionSigner:
        settings = self._settings
        if settings.watcher_signer:
            return self._remote("watcher_signer", settings.watcher_signer, settings.watcher)
        return self._key("watcher", settings.watcher, LOCAL_WATCHER)

    @cached_property
    def store(self) -> KeyStore:
        root, file = self._settings.keystore, self._settings.keystore_password_file
        if file is not None:
            return KeyStore(root, file.read_text().strip())
        if self._chain_id != LOCAL_CHAIN_ID:
            raise InvalidInput(
                "set LORALEDGER_KEYSTORE_PASSWORD_FILE: outside the local network the password must not be "
                "stored next to the key store",
                param="keystore_password_file",
            )
        return KeyStore(root, local_password(root))

    @property
    def webhook_key(self) -> str:
        """Key of the signing secrets of webhooks, in the file that a setting names, or created on first use.

        Errors: `InvalidInput` if the file cannot be read or has less than 32 characters.
        """
        file = self._settings.webhook_key_file
        if file is None:
            path = self._settings.home / "webhook-key"
            return read_or_create(path, lambda: secrets.token_urlsafe(32)).strip()
        try:
            key = file.read_text().strip()
        except OSError as error:
            raise InvalidInput(f"LORALEDGER_WEBHOOK_KEY_FILE: {error}", param="webhook_key_file") from error
        if len(key) < MIN_WEBHOOK_KEY:
            raise InvalidInput(
                f"LORALEDGER_WEBHOOK_KEY_FILE: {file} has {len(key)} characters; at least {MIN_WEBHOOK_KEY} "
                "random ones are needed",
                param="webhook_key_file",
            )
        return key

    def _remote(self, name: str, url: str, account: str) -> TransactionSigner:
        from backend.chain.remote_signers import open_signer

        setting = f"LORALEDGER_{name.upper()}"
        extra = SIGNER_EXTRAS.get(url.partition(":")[0])
        if extra:
            require_extra(extra, setting)
        return open_signer(url, Account(account) if account else None, setting)

    def _key(self, name: str, account: str, local_index: int) -> LocalSigner:
        if account:
            return self.store.open(Account(account))
        if self._chain_id != LOCAL_CHAIN_ID:
            raise InvalidInput(
                f"set LORALEDGER_{name.upper()} to an account whose key is in {self._settings.keystore}",
                param=name,
            )
        return local_account(local_index, self._chain_id)
