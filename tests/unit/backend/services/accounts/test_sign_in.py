from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import InvalidInput, Unauthenticated
from backend.domain.sign_in_message import parse_message, personal_digest
from tests.support.fakes import some_key
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.services.accounts.sign_in import SignIn


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    return ScriptedInstallation(tmp_path, sqlite_database)


@pytest.fixture
def sign_in(installation: ScriptedInstallation) -> SignIn:
    return installation.services.sign_in


def signed(installation: ScriptedInstallation, text: str) -> str:
    return installation.payer.sign(personal_digest(text))


def test_the_signer_gets_a_session(installation: ScriptedInstallation, sign_in: SignIn) -> None:
    challenge = sign_in.challenge(installation.payer.account)
    signed_in = sign_in.sign_in(challenge.message, signed(installation, challenge.message))
    assert installation.services.sessions.of(signed_in.access).account == installation.payer.account


def test_a_nonce_counts_once(installation: ScriptedInstallation, sign_in: SignIn) -> None:
    message = sign_in.challenge(installation.payer.account).message
    signature = signed(installation, message)
    sign_in.sign_in(message, signature)
    with pytest.raises(Unauthenticated, match="already used"):
        sign_in.sign_in(message, signature)


def test_a_nonce_that_we_did_not_give_is_refused(installation: ScriptedInstallation, sign_in: SignIn) -> None:
    challenge = sign_in.challenge(installation.payer.account)
    message = challenge.message.replace(challenge.nonce, "f" * 32)
    with pytest.raises(Unauthenticated, match="nonce"):
        sign_in.sign_in(message, signed(installation, message))


def test_an_expired_message_is_refused_although_its_nonce_is_good(
    installation: ScriptedInstallation, sign_in: SignIn
) -> None:
    message = sign_in.challenge(installation.payer.account).message
    message = replace(parse_message(message), expiration_time=installation.clock()).text()
    with pytest.raises(Unauthenticated, match="message has expired"):
        sign_in.sign_in(message, signed(installation, message))


def test_a_nonce_expires_even_if_the_message_does_not(
    installation: ScriptedInstallation, sign_in: SignIn
) -> None:
    message = sign_in.challenge(installation.payer.account).message
    message = "\n".join(line for line in message.split("\n") if not line.startswith("Expiration"))
    installation.clock.pass_seconds(601)
    with pytest.raises(Unauthenticated, match="nonce"):
        sign_in.sign_in(message, signed(installation, message))


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("127.0.0.1:8000 wants", "evil.example wants", "domain"),
        ("URI: http://127.0.0.1:8000", "URI: http://evil.example", "URI"),
        ("URI: http://127.0.0.1:8000", "URI: http://127.0.0.1:8000.evil.example", "URI"),
        ("Chain ID: 31337", "Chain ID: 1", "chain id"),
        ("Issued At: 2026", "Issued At: 2027", "future"),
    ],
)
def test_an_altered_message_is_refused(
    installation: ScriptedInstallation, sign_in: SignIn, before: str, after: str, complaint: str
) -> None:
    message = sign_in.challenge(installation.payer.account).message
    assert before in message
    message = message.replace(before, after)
    with pytest.raises(Unauthenticated, match=complaint):
        sign_in.sign_in(message, signed(installation, message))


def test_the_wrong_signer_is_refused_and_the_nonce_stays_good(
    installation: ScriptedInstallation, sign_in: SignIn
) -> None:
    message = sign_in.challenge(installation.payer.account).message
    with pytest.raises(Unauthenticated) as caught:
        sign_in.sign_in(message, some_key("thief").sign(personal_digest(message)))
    assert caught.value.param == "signature"
    assert sign_in.sign_in(message, signed(installation, message)).access


@pytest.mark.parametrize("signature", ["", "0x12", "0x" + "zz" * 65, "0x" + "ff" * 65])
def test_a_malformed_signature_is_refused(
    installation: ScriptedInstallation, sign_in: SignIn, signature: str
) -> None:
    message = sign_in.challenge(installation.payer.account).message
    with pytest.raises(InvalidInput) as caught:
        sign_in.sign_in(message, signature)
    assert caught.value.param == "signature"
