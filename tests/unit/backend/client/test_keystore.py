from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from backend.client.keystore import Keystores, LocalKey, StoredKey, parse_private_key
from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from tests.support.quick_keys import encrypt_quickly

if TYPE_CHECKING:
    from pathlib import Path

KEY = bytes(range(1, 33))
ACCOUNT = LocalKey(KEY).account


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key derivation takes a second by design."""
    encrypt_quickly(monkeypatch)


@pytest.fixture
def keystores(tmp_path: Path) -> Keystores:
    return Keystores(tmp_path / "keystores")


SECRET = "secret"


def stored(path: Path, password: str = SECRET) -> StoredKey:
    return StoredKey(path, lambda: password)


def test_a_key_is_read_with_its_password_only(keystores: Keystores) -> None:
    assert keystores.add("alice", KEY, "secret").account == ACCOUNT
    path = keystores.existing("alice")
    assert path.stat().st_mode & 0o777 == 0o600
    assert stored(path).account == ACCOUNT
    assert bytes(stored(path).unlock().key) == KEY
    with pytest.raises(Forbidden, match=f"wrong password for {path}"):
        stored(path, "Secret").unlock()


def test_the_password_is_asked_for_once_and_only_if_something_is_signed(keystores: Keystores) -> None:
    keystores.add("alice", KEY, "secret")
    asked: list[int] = []
    key = StoredKey(keystores.existing("alice"), lambda: asked.append(1) or "secret")  # type: ignore[func-returns-value]
    assert key.account == ACCOUNT
    assert not asked
    assert key.unlock() is key.unlock()
    assert asked == [1]


def test_a_file_of_foundry_names_no_account(keystores: Keystores) -> None:
    keystores.add("alice", KEY, "secret")
    path = keystores.existing("alice")
    path.write_text(
        json.dumps({"Crypto" if n == "crypto" else n: v for n, v in read(path).items() if n != "address"})
    )
    assert stored(path).account == ACCOUNT


def test_wallets_are_never_overwritten(keystores: Keystores) -> None:
    keystores.add("alice", KEY, "secret")
    before = keystores.existing("alice").read_bytes()
    with pytest.raises(Conflict, match="never overwritten"):
        keystores.add("alice", bytes(31) + b"\1", "other")
    assert keystores.existing("alice").read_bytes() == before
    assert keystores.names() == ["alice"]


@pytest.mark.parametrize("name", ["", "../alice", "a/b", ".hidden", "a b", "x" * 65, "a\n"])
def test_a_name_is_no_path(keystores: Keystores, name: str) -> None:
    with pytest.raises(InvalidInput, match="not a name of a wallet"):
        keystores.add(name, KEY, "secret")


def test_an_unknown_name_lists_those_there_are(keystores: Keystores) -> None:
    with pytest.raises(NotFound, match=r"there: none.*loraledger wallet new"):
        keystores.existing("bob")
    keystores.add("alice", KEY, "secret")
    with pytest.raises(NotFound, match="there: alice"):
        keystores.existing("bob")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"version": None},
        {"crypto": None},
        {"crypto": {}},
        {"crypto": {"kdf": "none"}},
        {"address": "00" * 20},
    ],
)
def test_a_keystore_of_another_format_is_named(keystores: Keystores, change: dict[str, Any]) -> None:
    keystores.add("alice", KEY, "secret")
    path = keystores.existing("alice")
    path.write_text(json.dumps(read(path) | change))
    with pytest.raises(InvalidInput, match="not a keystore of version 3"):
        stored(path).unlock()


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"-----BEGIN PRIVATE KEY-----", b'{"encseed": "00"}', b"[" * 100_000]
)
def test_a_file_of_something_else_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidInput, match="not a keystore of version 3"):
        stored(tmp_path / "file")


def test_a_missing_keystore_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no keystore"):
        stored(tmp_path / "none")


@pytest.mark.parametrize("text", ["", "0x12", "zz" * 32, "00" * 32, "ff" * 32, "11" * 33])
def test_what_is_no_private_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_private_key(text)
    assert not text or text not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_private_key_may_have_its_prefix_and_a_line_end() -> None:
    assert parse_private_key(f"0x{KEY.hex()}\n") == parse_private_key(KEY.hex()) == KEY


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_folder_is_no_wallet(keystores: Keystores) -> None:
    keystores.add("bob", KEY, "secret")
    (keystores.folder / "backup").mkdir()
    assert keystores.names() == ["bob"]
