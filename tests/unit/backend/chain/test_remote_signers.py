"""Keys that services hold: AWS KMS is moto's, Google's and Web3Signer are fakes of `tests/support/`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import coincurve
import pytest
from coincurve.ecdsa import cdata_to_der, der_to_cdata
from eth_account import Account as EthAccount
from hypothesis import given
from hypothesis import strategies as st

from backend.chain.keys import LocalSigner, recover
from backend.chain.node import Fees
from backend.chain.remote_signers import (
    ORDER,
    AwsKmsSigner,
    GoogleKmsSigner,
    Web3Signer,
    compact_of_der,
    open_signer,
    with_recovery,
)
from backend.chain.transactions import UnsignedTransaction, sign
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.hashing import keccak
from tests.support.aws import aws_server, new_key, use_server
from tests.support.market import some_account
from tests.support.signers import GOOGLE_KEY, google_kms, web3signer

if TYPE_CHECKING:
    from collections.abc import Iterator


KEY, OTHER = b"\x01" * 32, b"\x02" * 32
HELD = LocalSigner(KEY).account
Open = "Callable[[Account | None], RemoteSigner]"


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with aws_server() as url:
        yield url


@pytest.fixture(params=["aws", "google", "web3signer"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens a signer of a service; the argument is the account that the settings name."""
    if request.param == "aws":
        use_server(request.getfixturevalue("aws"), monkeypatch)
        key = new_key(monkeypatch)
        yield lambda stated: AwsKmsSigner(key, stated)
    elif request.param == "google":
        with google_kms(KEY) as client:
            yield lambda stated: GoogleKmsSigner(GOOGLE_KEY, stated, client)
    else:
        with web3signer([KEY]) as url:
            yield lambda stated: Web3Signer(url, stated)


def test_a_transaction_is_signed_by_the_service_s_key(service: Open) -> None:
    signer = service(None)
    to = some_account("receiver")
    for nonce in range(8):  # of eight signatures, some have s in the upper half unless it is mended
        signed = sign(signer, UnsignedTransaction(1, nonce, to, b"", 21_000, Fees(3, 1)))
        assert EthAccount.recover_transaction(signed.raw).lower() == signer.account
    assert recover(keccak(b"text"), signer.sign_message(b"text")) == signer.account


def test_the_stated_account_is_used_without_asking_and_checked_before_a_signature(service: Open) -> None:
    other = some_account("other")
    signer = service(other)
    assert signer.account == other
    with pytest.raises(InvalidInput, match=rf"(?s){service(None).account}"):
        signer.sign_message(b"text")
    own = service(service(None).account)
    assert recover(keccak(b"text"), own.sign_message(b"text")) == own.account


def test_a_key_of_another_curve_is_refused(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_server(aws, monkeypatch)
    with pytest.raises(InvalidInput, match="not one of secp256k1"):
        _ = AwsKmsSigner(new_key(monkeypatch, "ECC_NIST_P256")).account


def test_a_service_that_fails_is_unavailable(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_server(aws, monkeypatch)
    with pytest.raises(Unavailable, match="awskms:///alias/none"):
        _ = AwsKmsSigner("alias/none").account
    with pytest.raises(Unavailable, match="web3signer"):
        Web3Signer("http://127.0.0.1:1", HELD).sign_message(b"text")
    with google_kms(KEY) as client, pytest.raises(Unavailable, match="projects/none"):
        GoogleKmsSigner("projects/none", HELD, client).sign_message(b"text")


def test_one_of_several_keys_of_web3signer_must_be_named() -> None:
    with web3signer([KEY, OTHER]) as url:
        with pytest.raises(InvalidInput, match=HELD):
            _ = Web3Signer(url).account
        signer = Web3Signer(url, LocalSigner(OTHER).account)
        assert recover(keccak(b"x"), signer.sign_message(b"x")) == signer.account


def test_a_signature_of_another_key_is_not_passed_on() -> None:
    with google_kms(KEY, signs_with=OTHER) as client, pytest.raises(Unavailable, match=HELD):
        GoogleKmsSigner(GOOGLE_KEY, HELD, client).sign_message(b"text")


@given(st.binary(min_size=32, max_size=32), st.booleans())
def test_a_signature_in_der_becomes_that_of_a_local_key(digest: bytes, upper: bool) -> None:
    local = LocalSigner(KEY)
    expected = local.sign(digest)
    compact = compact_of_der(coincurve.PrivateKey(KEY).sign(digest, hasher=None))
    s = int.from_bytes(compact[32:], "big")
    chosen = compact[:32] + (ORDER - s if upper else s).to_bytes(32, "big")
    assert with_recovery(chosen, digest, local.account) == expected


@given(st.binary(max_size=80))
def test_only_der_is_read_as_der(text: bytes) -> None:
    try:
        compact_of_der(text)
    except ValueError:
        return
    assert cdata_to_der(der_to_cdata(text)) == text


def test_a_cut_or_longer_signature_is_refused() -> None:
    der = coincurve.PrivateKey(KEY).sign(b"x")
    for broken in (b"", der[:-1], der + b"\0", b"\x31" + der[1:], b"\x30\x00", b"\x30\x03\x02\x01\x01"):
        with pytest.raises(ValueError, match=r"DER|secp256k1"):
            compact_of_der(broken)


def test_a_signer_is_opened_by_its_url() -> None:
    opened = {
        "awskms:///alias/stake": AwsKmsSigner,
        f"gcpkms://{GOOGLE_KEY}": GoogleKmsSigner,
        "web3signer+https://host:9000": Web3Signer,
    }
    for url, kind in opened.items():
        signer = open_signer(url, HELD, "LORALEDGER_OPERATOR_SIGNER")
        assert (type(signer), str(signer), signer.account) == (kind, url, HELD)
    for url in ("awskms:///", "gcpkms://other", "web3signer+ftp://host", "vault:///key", ""):
        with pytest.raises(InvalidInput, match="LORALEDGER_OPERATOR_SIGNER"):
            open_signer(url, None, "LORALEDGER_OPERATOR_SIGNER")
