"""Keys of transactions that a service holds: AWS KMS, Google Cloud KMS, or Web3Signer.

The account is that of the service's public key. A signature counts only if that account is recovered from it,
so an answer of the service needs no trust. Time limits are short: the sender locks its lane while it signs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import coincurve

from backend.chain.keys import account_of, recover
from backend.domain.errors import DomainError, InvalidInput, Unavailable
from backend.domain.hashing import keccak
from backend.domain.signatures import HALF_ORDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.domain.ids import Account

CONNECT_SECONDS, READ_SECONDS = 2, 4
SPKI_START = bytes.fromhex("3056301006072a8648ce3d020106052b8104000a034200")
"""SubjectPublicKeyInfo of a secp256k1 key up to its uncompressed point. Source: RFC 5480, SEC 2."""
ORDER = 2 * HALF_ORDER + 1


class RemoteSigner(ABC):
    """Implements `backend.ports.keys.TransactionSigner`.

    `stated`: the account that the settings name, if they do. The service is then asked only to sign, so that
    processes that send nothing need no access to it.
    """

    def __init__(self, stated: Account | None) -> None:
        self._stated = stated

    @cached_property
    def account(self) -> Account:
        return self._stated or account_of(self._key)

    def sign_message(self, message: bytes) -> str:
        key = self._key  # before the signature, so that the wrong key is named as such
        with self._errors():
            signature = self._sign(message)
        return with_recovery(signature, keccak(message), account_of(key))

    @abstractmethod
    def _sign(self, message: bytes) -> bytes:
        """R and s over the hash of the message in 64 bytes, s in either half."""

    @abstractmethod
    def _public_key(self) -> coincurve.PublicKey:
        """Ask the service. Errors: `InvalidInput` for another kind of key."""

    @cached_property
    def _key(self) -> coincurve.PublicKey:
        with self._errors():
            key = self._public_key()
        if self._stated not in {None, account_of(key)}:
            raise InvalidInput(
                f"the key of {self} is {account_of(key)}, but the settings name {self._stated}"
            )
        return key

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DomainError:
            raise
        except Exception as error:  # the services' clients raise errors of many types
            raise Unavailable(f"{self} does not sign: {error}") from error


class AwsKmsSigner(RemoteSigner):
    """A key of AWS KMS with the spec ECC_SECG_P256K1. `key_id`: key id, ARN, or `alias/NAME`.

    Region, endpoint and credentials are those of any AWS client. Permissions: kms:GetPublicKey and kms:Sign.
    """

    def __init__(self, key_id: str, stated: Account | None = None) -> None:
        super().__init__(stated)
        self._key_id = key_id

    def __str__(self) -> str:
        return f"awskms:///{self._key_id}"

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        retries = {"mode": "standard", "total_max_attempts": 2}
        config = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries=retries)
        return boto3.client("kms", config=config)

    def _public_key(self) -> coincurve.PublicKey:
        answer = self._client.get_public_key(KeyId=self._key_id)
        return point_of_spki(answer["PublicKey"], str(self))

    def _sign(self, message: bytes) -> bytes:
        request = {"Message": keccak(message), "MessageType": "DIGEST", "SigningAlgorithm": "ECDSA_SHA_256"}
        answer = self._client.sign(KeyId=self._key_id, **request)
        return compact_of_der(answer["Signature"])


class GoogleKmsSigner(RemoteSigner):
    """A key version of Google Cloud KMS with the algorithm EC_SIGN_SECP256K1_SHA256.

    `name`: `projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V`. Credentials are the
    application's default ones. The service signs any digest of 32 bytes, so also one of Keccak.
    """

    def __init__(self, name: str, stated: Account | None = None, client: Any = None) -> None:
        super().__init__(stated)
        self._name = name
        if client is not None:
            self._client = client

    def __str__(self) -> str:
        return f"gcpkms://{self._name}"

    @cached_property
    def _client(self) -> Any:
        from google.cloud.kms_v1 import KeyManagementServiceClient

        return KeyManagementServiceClient()

    def _public_key(self) -> coincurve.PublicKey:
        import base64

        answer = self._client.get_public_key(request={"name": self._name}, timeout=READ_SECONDS, retry=None)
        lines = [line for line in answer.pem.splitlines() if not line.startswith("-----")]
        return point_of_spki(base64.b64decode("".join(lines)), str(self))

    def _sign(self, message: bytes) -> bytes:
        request = {"name": self._name, "digest": {"sha256": keccak(message)}}
        answer = self._client.asymmetric_sign(request=request, timeout=READ_SECONDS, retry=None)
        return compact_of_der(answer.signature)


class Web3Signer(RemoteSigner):
    """A key that Web3Signer serves at `url`, of the account that the settings name, or its only key.

    Its `eth1/sign` hashes the message itself. Source: https://docs.web3signer.consensys.io/reference/api/rest
    """

    def __init__(self, url: str, stated: Account | None = None) -> None:
        super().__init__(stated)
        self._url = url.rstrip("/")

    def __str__(self) -> str:
        return f"web3signer+{self._url}"

    @cached_property
    def _client(self) -> Any:
        import httpx

        return httpx.Client(timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS))

    def _public_key(self) -> coincurve.PublicKey:
        answer = self._client.get(f"{self._url}/api/v1/eth1/publicKeys").raise_for_status()
        points = (bytes.fromhex(key.removeprefix("0x")) for key in answer.json())
        keys = [coincurve.PublicKey(point if len(point) == 65 else b"\x04" + point) for point in points]
        found = [key for key in keys if self._stated in {None, account_of(key)}]
        if len(found) != 1:
            served = ", ".join(map(account_of, keys)) or "none"
            raise InvalidInput(f"name one of the accounts whose keys {self} serves: {served}")
        return found[0]

    def _sign(self, message: bytes) -> bytes:
        identifier = self._key.format(compressed=False)[1:].hex()
        answer = self._client.post(
            f"{self._url}/api/v1/eth1/sign/0x{identifier}", json={"data": "0x" + message.hex()}
        )
        return bytes.fromhex(answer.raise_for_status().text.strip().removeprefix("0x"))[:64]


def open_signer(url: str, stated: Account | None, setting: str) -> RemoteSigner:
    """The signer that a setting names. The service is not asked yet. Errors: `InvalidInput`."""
    for start, kind in (("awskms:///", AwsKmsSigner), ("gcpkms://projects/", GoogleKmsSigner)):
        if url.startswith(start) and len(url) > len(start):
            return kind(url.partition("://")[2].lstrip("/"), stated)
    if url.startswith(("web3signer+http://", "web3signer+https://")):
        return Web3Signer(url.partition("+")[2], stated)
    raise InvalidInput(
        f"{setting}: {url!r} is none of awskms:///KEY, gcpkms://projects/..., web3signer+https://HOST:PORT",
        param=setting,
    )


def with_recovery(compact: bytes, digest: bytes, account: Account) -> str:
    """The signature as contracts and `Signer.sign` have it: s in the lower half, and v for this account.

    Errors: `Unavailable` if the account did not sign the digest.
    """
    r, s = (int.from_bytes(compact[at : at + 32], "big") for at in (0, 32))
    low = r.to_bytes(32, "big") + min(s, ORDER - s).to_bytes(32, "big") if s < ORDER else compact
    for v in (27, 28):
        signature = f"0x{low.hex()}{v:02x}"
        try:
            if recover(digest, signature) == account:
                return signature
        except InvalidInput:
            continue
    raise Unavailable(f"the service's signature is not one of {account}")


def compact_of_der(der: bytes) -> bytes:
    """R and s in 64 bytes of an ASN.1 signature (RFC 3279). Errors: `ValueError` for anything else."""
    numbers, rest = [], der[2:]
    if der[:1] != b"\x30" or der[1:2] != bytes([len(rest)]):
        raise ValueError("the signature is not in DER")
    while rest:
        size = rest[1] if len(rest) > 1 else 0
        if rest[0] != 2 or not 0 < size <= 33 or len(rest) < 2 + size:
            raise ValueError("the signature is not in DER")
        numbers.append(int.from_bytes(rest[2 : 2 + size], "big"))
        rest = rest[2 + size :]
    if len(numbers) != 2 or not all(0 < number < ORDER for number in numbers):
        raise ValueError("the signature is not one of secp256k1")
    return b"".join(number.to_bytes(32, "big") for number in numbers)


def point_of_spki(spki: bytes, source: str) -> coincurve.PublicKey:
    """The public key in a SubjectPublicKeyInfo. Errors: `InvalidInput` for a key that is not of secp256k1."""
    if not spki.startswith(SPKI_START) or len(spki) != len(SPKI_START) + 65:
        raise InvalidInput(f"the key {source} is not one of secp256k1")
    return coincurve.PublicKey(spki[len(SPKI_START) :])
