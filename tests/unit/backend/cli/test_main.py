"""The command as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from backend.deployment.deployment_file import save_deployment
from backend.domain.deployment import Deployment
from tests.support.answering import JSON, answering
from tests.support.market import some_account, some_hash

HEAVY = ("torch", "transformers", "web3", "sqlalchemy", "fastapi", "celery", "openai", "httpx")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backend.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "100", **environment},
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from backend.cli.main import app\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["index", "send", "settle", "relay", "serve", "worker"])
def test_a_part_without_an_installation_says_what_to_do(command: str, tmp_path: Path) -> None:
    result = run(command, LORALEDGER_HOME=str(tmp_path))
    assert result.returncode == 1
    assert "loraledger up" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["serve", "settle", "relay", "worker"])
def test_a_part_refuses_a_database_of_another_revision_and_says_what_to_run(
    command: str, tmp_path: Path
) -> None:
    deployment = Deployment(11155111, 1, some_hash("block"), {"AdapterRegistry": some_account("registry")})
    save_deployment(deployment, tmp_path / "deployment.json")
    result = run(command, LORALEDGER_HOME=str(tmp_path))
    assert result.returncode == 1
    assert "error: the database has no tables" in result.stderr
    assert "run `loraledger database migrate`" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_does_not_move_the_terminals_cursor() -> None:
    body = json.dumps({"error": {"message": "\x1b[2J", "details": {"id": "\x1b[H", "list": [1]}}})
    with answering(400, JSON, body) as url:
        result = run("datanet", "list", "--market", url)
    assert result.returncode == 1
    assert "GET /v1/datanets: ?[2J\n" in result.stderr
    assert "  id: ?[H\n" in result.stderr


def test_pulling_an_adapter_into_an_empty_home_asks_to_index_the_chain(tmp_path: Path) -> None:
    deployment = Deployment(11155111, 1, some_hash("block"), {"AdapterRegistry": some_account("registry")})
    save_deployment(deployment, tmp_path / "deployment.json")
    result = run("adapter", "pull", some_hash("adapter"), "a-copy", LORALEDGER_HOME=str(tmp_path))
    assert result.returncode == 1
    assert "start `loraledger index`" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_block_store_is_served_as_a_kubo_rpc(tmp_path: Path) -> None:
    import httpx

    with subprocess.Popen(
        [sys.executable, "-m", "backend.cli.main", "ipfs", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LORALEDGER_HOME": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert "Version" in httpx.post(f"{url}/version", timeout=60).json()
        process.terminate()


def test_an_unknown_queue_is_named(tmp_path: Path) -> None:
    result = run("worker", "--queue", "tain", LORALEDGER_HOME=str(tmp_path))
    assert result.returncode == 1
    assert "tain" in result.stderr


def test_an_unknown_setting_is_named_without_a_stack_trace(tmp_path: Path) -> None:
    result = run("index", LORALEDGER_HOEM=str(tmp_path))
    assert result.returncode == 1
    assert "LORALEDGER_HOEM" in result.stderr
    assert "Traceback" not in result.stderr


def test_every_command_is_documented() -> None:
    from typer.main import get_command

    from backend.cli.main import app

    documented = Path("docs/cli.md").read_text()
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"## `loraledger {name}`" in documented
