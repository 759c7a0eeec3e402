from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from backend.chain.keystore import KeyStore, local_password
from backend.domain.errors import Forbidden
from backend.domain.ids import Account

if TYPE_CHECKING:
    from pathlib import Path

UNKNOWN = Account("0x" + "11" * 20)


def test_a_key_opens_with_its_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    account = KeyStore(tmp_path, "a password").create()
    signer = KeyStore(tmp_path, "a password").signer(account)
    assert signer is not None
    assert signer.account == account
    assert KeyStore(tmp_path, "a password").signer(UNKNOWN) is None
    assert not caplog.records


def test_a_wrong_password_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    account = KeyStore(tmp_path, "a password").create()
    with caplog.at_level(logging.WARNING):
        assert KeyStore(tmp_path, "another").signer(account) is None
    assert account in caplog.text
    with pytest.raises(Forbidden):
        KeyStore(tmp_path, "another").open(account)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"version": 3}', '{"version": 3, "crypto": []}'])
def test_a_broken_key_file_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str) -> None:
    (tmp_path / f"{UNKNOWN}.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        assert KeyStore(tmp_path, "a password").signer(UNKNOWN) is None
    assert UNKNOWN in caplog.text


@pytest.mark.filterwarnings("ignore:the key store's password is stored next to the keys")
def test_processes_that_start_together_read_one_password(tmp_path: Path) -> None:
    num, root = 8, tmp_path / "keys"
    start = Barrier(num)

    def read(_: int) -> str:
        start.wait()
        return local_password(root)

    with ThreadPoolExecutor(num) as pool:
        passwords = set(pool.map(read, range(num)))
    assert len(passwords) == 1
    assert all(passwords)
    assert (root / "password").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in root.iterdir()] == ["password"]
