"""EIP-4361 messages ("Sign-In with Ethereum"): formatting, parsing, and the digest that wallets sign."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from backend.domain.errors import InvalidInput
from backend.domain.hashing import keccak
from backend.domain.ids import Account

# The grammar of EIP-4361. Every line is anchored, so nothing can be inserted between two fields.
_MESSAGE = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://)?(?P<domain>[^\s/]+) wants you to sign in with your Ethereum account:\n"
    r"(?P<account>0x[0-9a-fA-F]{40})\n"
    r"\n(?:(?P<statement>[^\n]+)\n)?\n"
    r"URI: (?P<uri>\S+)\n"
    r"Version: 1\n"
    r"Chain ID: (?P<chain_id>[0-9]{1,19})\n"
    r"Nonce: (?P<nonce>[a-zA-Z0-9]{8,64})\n"
    r"Issued At: (?P<issued_at>\S+)"
    r"(?:\nExpiration Time: (?P<expiration_time>\S+))?"
    r"(?:\nNot Before: (?P<not_before>\S+))?"
    r"(?:\nRequest ID: [^\n]*)?"
    r"(?:\nResources:(?:\n- \S+)*)?"
)
_MAX_CHARACTERS = 4096
STATEMENT = "Sign in to loraledger. This costs nothing and moves no funds."
"""Statement of the messages that markets ask to sign."""


@dataclass(frozen=True, slots=True)
class SignInMessage:
    """The fields that are checked; `request-id` and `resources` are accepted and ignored."""

    domain: str
    account: Account
    uri: str
    chain_id: int
    nonce: str
    issued_at: datetime
    expiration_time: datetime | None = None
    not_before: datetime | None = None
    statement: str | None = None

    def text(self) -> str:
        statement = f"{self.statement}\n" if self.statement else ""
        lines = [
            f"{self.domain} wants you to sign in with your Ethereum account:\n{checksummed(self.account)}\n",
            f"{statement}\nURI: {self.uri}",
            "Version: 1",
            f"Chain ID: {self.chain_id}",
            f"Nonce: {self.nonce}",
            f"Issued At: {_instant_text(self.issued_at)}",
        ]
        if self.expiration_time:
            lines.append(f"Expiration Time: {_instant_text(self.expiration_time)}")
        if self.not_before:
            lines.append(f"Not Before: {_instant_text(self.not_before)}")
        return "\n".join(lines)


def parse_message(text: str) -> SignInMessage:
    """Raises InvalidInput (param `message`) if the text is not an EIP-4361 version 1 message."""
    match = _MESSAGE.fullmatch(text) if len(text) <= _MAX_CHARACTERS else None
    if match is None:
        raise InvalidInput("The message is not an EIP-4361 sign-in message, version 1.", param="message")
    field = match.groupdict()
    return SignInMessage(
        domain=field["domain"],
        # The checksum is not verified: the signature is checked against the account itself.
        account=Account(field["account"].lower()),
        uri=_uri(field["uri"]),
        chain_id=int(field["chain_id"]),
        nonce=field["nonce"],
        issued_at=_instant(field["issued_at"], "Issued At"),
        expiration_time=_optional_instant(field["expiration_time"], "Expiration Time"),
        not_before=_optional_instant(field["not_before"], "Not Before"),
        statement=field["statement"],
    )


def personal_digest(text: str) -> bytes:
    """The 32-byte digest that `personal_sign` signs (EIP-191, version 0x45)."""
    data = text.encode()
    return keccak(b"\x19Ethereum Signed Message:\n" + str(len(data)).encode() + data)


def checksummed(account: Account) -> str:
    """EIP-55 spelling of an account."""
    digits = account[2:].lower()
    nibbles = keccak(digits.encode()).hex()
    return "0x" + "".join(d.upper() if int(n, 16) >= 8 else d for d, n in zip(digits, nibbles, strict=False))


def _optional_instant(text: str | None, name: str) -> datetime | None:
    return None if text is None else _instant(text, name)


def _instant(text: str, name: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = datetime.min  # noqa: DTZ901 - naive on purpose: rejected below
    if instant.tzinfo is None:
        raise InvalidInput(f"'{name}' is not an RFC 3339 instant with a zone: {text}", param="message")
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise InvalidInput(f"'{name}' is out of range: {text}", param="message") from error


def _uri(text: str) -> str:
    try:
        urlsplit(text)
    except ValueError as error:
        raise InvalidInput(f"'URI' is not a URI: {text}", param="message") from error
    return text


def _instant_text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
