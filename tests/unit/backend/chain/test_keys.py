from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from eth_account import Account as EthAccount
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.chain.keys import (
    LocalSigner,
    create_key,
    import_key,
    local_account,
    open_key,
    recover,
)
from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from backend.domain.signatures import HALF_ORDER

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.ids import Account

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DIGEST = b"\x07" * 32
SIGNER = LocalSigner(b"\x01" * 32)


@settings(max_examples=30)
@given(st.binary(min_size=32, max_size=32))
def test_the_signer_is_recovered_and_agrees_with_eth_account(digest: bytes) -> None:
    signature = SIGNER.sign(digest)
    assert recover(digest, signature) == SIGNER.account
    theirs = EthAccount.unsafe_sign_hash(digest, b"\x01" * 32)
    assert signature == "0x" + theirs.signature.hex().removeprefix("0x")


def test_a_signature_with_a_high_s_is_refused() -> None:
    raw = bytes.fromhex(SIGNER.sign(DIGEST)[2:])
    s = int.from_bytes(raw[32:64], "big")
    assert s <= HALF_ORDER
    twin = raw[:32] + (ORDER - s).to_bytes(32, "big") + bytes([27 + 28 - raw[64]])
    with pytest.raises(InvalidInput, match="upper half"):
        recover(DIGEST, "0x" + twin.hex())


@pytest.mark.parametrize(
    "signature", ["0x", "zz", "0x" + "11" * 64, "0x" + "11" * 64 + "1d", "0x" + "00" * 64 + "1b"]
)
def test_malformed_signatures_are_refused(signature: str) -> None:
    with pytest.raises(InvalidInput, match="malformed signature"):
        recover(DIGEST, signature)


def test_test_keys_are_refused_on_public_chains() -> None:
    assert local_account(0).account == "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266"
    with pytest.raises(Forbidden, match="refused on chain 1"):
        local_account(0, chain_id=1)


@pytest.fixture
def stored(tmp_path: Path) -> Account:
    return create_key(tmp_path, "a password").account


def test_a_stored_key_opens_with_its_password_only(tmp_path: Path, stored: Account) -> None:
    assert open_key(tmp_path, stored, "a password").account == stored
    with pytest.raises(Forbidden, match="wrong password"):
        open_key(tmp_path, stored, "another")
    with pytest.raises(NotFound):
        open_key(tmp_path, SIGNER.account, "a password")


def test_a_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    import_key(tmp_path, b"\x01" * 32, "a password")
    assert (tmp_path / f"{SIGNER.account}.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict):
        import_key(tmp_path, b"\x01" * 32, "another")


def test_a_key_file_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def power_cut(_: int) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("os.fsync", power_cut)
    with pytest.raises(OSError, match="power cut"):
        import_key(tmp_path, b"\x01" * 32, "a password")
    assert list(tmp_path.iterdir()) == []
