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


def test_a_service_holds_the_keys_of_transactions_that_settings_name(tmp_path: Path) -> None:
    account = local_account(3).account
    settings = Settings(
        home=tmp_path,
        operator=account,
        operator_signer="awskms:///alias/stake",
        watcher=account,
        watcher_signer="web3signer+http://127.0.0.1:1",
    )
    keys = SigningKeys(settings, 1)
    assert (str(keys.operator), keys.operator.account) == ("awskms:///alias/stake", account)
    assert (str(keys.watcher), keys.watcher.account) == ("web3signer+http://127.0.0.1:1", account)
    wrong = settings.model_copy(update={"operator_signer": "kms:key"})
    with pytest.raises(InvalidInput, match="LORALEDGER_OPERATOR_SIGNER"):
        _ = SigningKeys(wrong, 1).operator


def test_the_webhook_key_is_made_once_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    keys = SigningKeys(Settings(home=tmp_path), 1)
    assert len(keys.webhook_key) >= 32
    assert keys.webhook_key == SigningKeys(Settings(home=tmp_path), 1).webhook_key
    assert (tmp_path / "webhook-key").stat().st_mode & 0o777 == 0o600


def test_a_webhook_key_that_is_restored_with_a_line_end_is_the_same(tmp_path: Path) -> None:
    keys, file = SigningKeys(Settings(home=tmp_path), 1), tmp_path / "webhook-key"
    made = keys.webhook_key
    file.write_text(f"{made}\n")
    assert keys.webhook_key == made


@pytest.mark.parametrize(("text", "why"), [(None, "No such file"), ("too short", "at least 32")])
def test_a_webhook_key_file_that_is_missing_or_short_is_refused(
    tmp_path: Path, text: str | None, why: str
) -> None:
    file = tmp_path / "key"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InvalidInput, match=why) as refused:
        _ = SigningKeys(Settings(home=tmp_path, webhook_key_file=file), 1).webhook_key
    assert "LORALEDGER_WEBHOOK_KEY_FILE" in refused.value.message
    file.write_text("k" * 32 + "\n")
    assert SigningKeys(Settings(home=tmp_path, webhook_key_file=file), 1).webhook_key == "k" * 32
