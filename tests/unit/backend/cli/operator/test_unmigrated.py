"""Commands that read the database of a home, before its tables are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.deployment.deployment_file import save_deployment
from backend.domain.errors import Conflict, NotFound
from backend.settings import Settings
from tests.support.market import some_account
from tests.support.terminal import scripted_deployment

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = [
    ["audit", "--all"],
    ["audit", "--operator", some_account("operator")],
    ["policy", "list"],
    ["policy", "floor"],
    ["policy", "floor", "--prices", "1", "1"],
    ["policy", "deny", "payer", some_account("payer")],
    ["policy", "allow", "payer", some_account("payer")],
    ["policy", "takedown", "owner/name"],
    ["receipts", "verify", "receipt.json"],
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORALEDGER_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_without_tables_is_named_with_the_remedy(command: list[str], home: Path) -> None:
    save_deployment(scripted_deployment(), Settings(home=home).deployment_file)
    error = CliRunner().invoke(app, command).exception
    assert isinstance(error, Conflict)
    assert "the database has no tables" in str(error)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_home_without_a_deployment_gets_no_database(command: list[str], home: Path) -> None:
    assert isinstance(CliRunner().invoke(app, command).exception, NotFound)
    assert not list(home.glob("**/*.db"))
