"""Secp256k1 keys: in memory, in encrypted key files, and the well-known keys of the local chain."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import coincurve
from eth_account import Account as EthAccount

from backend.chain.local_keys import local_private_key
from backend.disk.files import create_private
from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.errors import Conflict, Forbidden, NotFound
from backend.domain.hashing import keccak
from backend.domain.ids import Account
from backend.domain.signatures import malformed_signature, parse_signature

if TYPE_CHECKING:
    from pathlib import Path


class LocalSigner:
    """A private key in memory. Implements `Signer` and `TransactionSigner` of `backend.ports.keys`."""

    def __init__(self, private_key: bytes) -> None:
        self._key = coincurve.PrivateKey(private_key)
        self.account = account_of(self._key.public_key)

    def __repr__(self) -> str:
        return f"LocalSigner({self.account})"

    def sign(self, digest: bytes) -> str:
        raw = self._key.sign_recoverable(digest, hasher=None)
        return "0x" + raw[:64].hex() + f"{27 + raw[64]:02x}"

    def sign_message(self, message: bytes) -> str:
        return self.sign(keccak(message))


def recover(digest: bytes, signature: str) -> Account:
    """Recover the account that signed a 32-byte digest.

    Errors: `InvalidInput` for a malformed signature or one with s in the upper half of the curve's order.
    """
    compact, parity = parse_signature(signature)
    try:
        key = coincurve.PublicKey.from_signature_and_message(compact + bytes([parity]), digest, hasher=None)
    except ValueError:
        raise malformed_signature("no key made it") from None
    return account_of(key)


def local_account(index: int, chain_id: int = LOCAL_CHAIN_ID) -> LocalSigner:
    """A key of the public development mnemonic. Errors: `Forbidden` on any chain but 31337."""
    if chain_id != LOCAL_CHAIN_ID:
        raise Forbidden(
            f"the well-known test keys are refused on chain {chain_id}: they are public",
            param="chain_id",
        )
    return LocalSigner(bytes.fromhex(local_private_key(index)[2:]))


def create_key(keystore: Path, password: str) -> LocalSigner:
    """Create a random key and write it encrypted (Web3 Secret Storage v3) to `<keystore>/<account>.json`."""
    return import_key(keystore, os.urandom(32), password)


def import_key(keystore: Path, private_key: bytes, password: str) -> LocalSigner:
    """Encrypt a key into the keystore. Errors: `Conflict` if its file exists."""
    signer = LocalSigner(private_key)
    path = _key_file(keystore, signer.account)
    keystore.mkdir(parents=True, exist_ok=True, mode=0o700)
    encrypted = json.dumps(EthAccount.encrypt(private_key, password))
    try:
        create_private(path, encrypted)
    except FileExistsError:
        raise Conflict(f"{path} exists already", param="keystore") from None
    return signer


def open_key(keystore: Path, account: Account, password: str) -> LocalSigner:
    """Decrypt a key. Errors: `NotFound`, `Forbidden` for a wrong password or a broken file."""
    path = _key_file(keystore, account)
    if not path.is_file():
        raise NotFound(f"no key of {account} in {keystore}", param="account")
    try:
        return LocalSigner(bytes(EthAccount.decrypt(path.read_text(), password)))
    except OSError:
        raise
    except Exception as error:  # on a broken file the library raises errors of many types
        raise Forbidden(f"wrong password for {path}, or a broken file", param="password") from error


def account_of(key: coincurve.PublicKey) -> Account:
    """The account of a public key: the end of the hash of its point."""
    return Account("0x" + keccak(key.format(compressed=False)[1:])[12:].hex())


def _key_file(keystore: Path, account: Account) -> Path:
    return keystore / f"{account}.json"
