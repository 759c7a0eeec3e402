from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import InvalidInput, NotFound, Unauthenticated
from tests.support.market import some_account
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    return ScriptedInstallation(tmp_path, sqlite_database)


def test_a_secret_is_shown_once_and_stored_as_a_hash(installation: ScriptedInstallation) -> None:
    keys = installation.services.keys
    new = keys.create(installation.payer.account, "laptop")
    assert new.secret.startswith("llk_")
    assert keys.authenticate(new.secret).id == new.key.id
    with installation.database.engine.connect() as connection:
        row = " ".join(map(str, connection.exec_driver_sql("select * from api_keys").one()))
    assert new.secret not in row
    assert [key.name for key in keys.list(installation.payer.account)] == ["laptop"]


def test_a_revoked_key_opens_nothing(installation: ScriptedInstallation) -> None:
    keys = installation.services.keys
    new = keys.create(installation.payer.account, "laptop")
    first = keys.revoke(installation.payer.account, new.key.id)
    installation.clock.pass_seconds(60)
    assert keys.revoke(installation.payer.account, new.key.id) == first
    with pytest.raises(Unauthenticated):
        keys.authenticate(new.secret)


def test_a_key_is_revoked_only_by_its_owner(installation: ScriptedInstallation) -> None:
    keys = installation.services.keys
    new = keys.create(installation.payer.account, "laptop")
    with pytest.raises(NotFound):
        keys.revoke(some_account("other"), new.key.id)
    assert keys.authenticate(new.secret)


@pytest.mark.parametrize(
    ("name", "cap"), [("", None), ("x" * 65, None), ("a\nb", None), ("ok", -1), ("ok", 1 << 128)]
)
def test_a_bad_name_or_cap_is_refused(installation: ScriptedInstallation, name: str, cap: int | None) -> None:
    with pytest.raises(InvalidInput):
        installation.services.keys.create(installation.payer.account, name, cap)


def test_an_unknown_secret_is_refused(installation: ScriptedInstallation) -> None:
    with pytest.raises(Unauthenticated):
        installation.services.keys.authenticate("llk_nothing")
