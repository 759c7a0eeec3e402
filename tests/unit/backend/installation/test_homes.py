"""Homes of other markets and of later versions."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.deployment.deployment_file import save_deployment
from backend.domain.errors import Conflict
from backend.installation.local_network import _redeploy
from backend.installation.watcher import _open_database
from backend.settings import Settings
from tests.support.terminal import scripted_deployment

if TYPE_CHECKING:
    from pathlib import Path


def test_a_local_network_moves_no_data_of_a_public_market(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, rpc_url="http://127.0.0.1:1")
    save_deployment(replace(scripted_deployment(), chain_id=8453), settings.deployment_file)
    (tmp_path / "keys").mkdir()
    with pytest.raises(Conflict, match="a market on chain 8453"):
        _redeploy(settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deployment.json", "keys"]


def test_a_watchers_database_of_a_later_version_is_made_again(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    _open_database(settings, "0x" + "12" * 32).close()
    (path,) = (tmp_path / "watch").glob("*.db")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    _open_database(settings, "0x" + "12" * 32).close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() != ("9999",)
    connection.close()
