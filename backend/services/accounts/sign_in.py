"""Sign-In with Ethereum (EIP-4361): a challenge with a single-use nonce, and a session for its signer."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from backend.domain.errors import Unauthenticated
from backend.domain.sign_in_message import STATEMENT, SignInMessage, parse_message, personal_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account
    from backend.services.accounts.sessions import Sessions, Tokens
    from backend.services.transactions.consent import Consent

_CLOCK_SKEW = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class SignInPolicy:
    """Values that a message must have. `origins`: `scheme://host[:port]` of this installation's addresses."""

    origins: tuple[str, ...]
    chain_id: int
    nonce_seconds: int = 600

    @property
    def domains(self) -> frozenset[str]:
        return frozenset(urlsplit(origin).netloc for origin in self.origins)


@dataclass(frozen=True, slots=True)
class Challenge:
    message: str
    nonce: str
    expires_at: datetime


class SignIn:
    def __init__(
        self,
        db: Database,
        sessions: Sessions,
        consent: Consent,
        clock: Callable[[], datetime],
        policy: SignInPolicy,
    ) -> None:
        self._db = db
        self._sessions = sessions
        self._consent = consent
        self._clock = clock
        self._policy = policy
        self.chain_id = policy.chain_id

    def challenge(self, account: Account) -> Challenge:
        """A message for `account` to sign. Its nonce is valid once, here, until it expires."""
        now = self._clock()
        expires_at = now + timedelta(seconds=self._policy.nonce_seconds)
        nonce = secrets.token_hex(16)
        with self._db.begin() as tx:
            tx.auth.add_nonce(nonce, expires_at)
        origin = self._policy.origins[0]
        message = SignInMessage(
            domain=urlsplit(origin).netloc,
            account=account,
            uri=origin,
            chain_id=self._policy.chain_id,
            nonce=nonce,
            issued_at=now,
            expiration_time=expires_at,
            statement=STATEMENT,
        )
        return Challenge(message.text(), nonce, expires_at)

    def sign_in(self, message_text: str, signature: str) -> Tokens:
        """Open a session for the account that signed. Raises InvalidInput or Unauthenticated."""
        message = parse_message(message_text)
        now = self._clock()
        self._check_fields(message, now)
        self._check_signer(message_text, signature, message.account)
        with self._db.begin() as tx:
            if not tx.auth.consume_nonce(message.nonce, now):
                raise Unauthenticated(
                    "The nonce is unknown, expired or already used; ask for a new challenge.", param="message"
                )
            return self._sessions.open(tx, message.account)

    def _check_fields(self, message: SignInMessage, now: datetime) -> None:
        policy = self._policy
        uri = urlsplit(message.uri)
        faults = {
            f"domain is {message.domain}, not {' or '.join(sorted(policy.domains))}": (
                message.domain not in policy.domains
            ),
            f"URI {message.uri} is not under {' or '.join(policy.origins)}": (
                f"{uri.scheme}://{uri.netloc}" not in policy.origins
            ),
            f"chain id is {message.chain_id}, not {policy.chain_id}": message.chain_id != policy.chain_id,
            "message was issued in the future": message.issued_at > now + _CLOCK_SKEW,
            "message is not valid yet": bool(message.not_before and message.not_before > now),
            "message has expired": bool(message.expiration_time and message.expiration_time <= now),
        }
        for fault, is_present in faults.items():
            if is_present:
                raise Unauthenticated(f"Sign-in refused: {fault}.", param="message")

    def _check_signer(self, text: str, signature: str, account: Account) -> None:
        refusal = self._consent.refusal(account, personal_digest(text), signature)
        if refusal is not None:
            raise Unauthenticated(f"Sign-in refused: {refusal}.", param="signature")
