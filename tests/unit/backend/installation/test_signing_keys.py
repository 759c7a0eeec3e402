from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.chain.keys import create_key, local_account
from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.errors import InvalidInput
from backend.installation.signing_keys import SigningKeys
from backend.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_only_the_local_network_has_test_keys(tmp_path: Path) -> None:
    keys = SigningKeys(Settings(home=tmp_path), LOCAL_CHAIN_ID)
    found = [keys.operator.account, keys.receipt_key.account, keys.watcher.account]
    assert found == [local_account(index).account for index in (1, 2, 9)]
    public = SigningKeys(Settings(home=tmp_path), 1)
    with pytest.raises(InvalidInput, match="LORALEDGER_RECEIPT_KEY"):
        _ = public.receipt_key
    with pytest.raises(InvalidInput, match="LORALEDGER_KEYSTORE_PASSWORD_FILE"):
        _ = public.store


def test_a_key_named_by_a_setting_comes_from_the_store(tmp_path: Path) -> None:
    made = create_key(tmp_path / "keys", "a password")
    (tmp_path / "password").write_text("a password\n")
    settings = Settings(home=tmp_path, operator=made.account, keystore_password_file=tmp_path / "password")
    assert SigningKeys(settings, 1).operator.account == made.account
