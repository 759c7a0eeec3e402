"""Runs every command of docs/maintenance.md in order, on a market that goes on selling after its backup."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from backend.chain.keys import local_account
from backend.chain.local_node import ROOT, LocalNode
from backend.client.waiting import wait_until
from backend.db.migrate import newest_revision
from backend.loopback import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GUIDE = ROOT / "docs" / "maintenance.md"
BASE = "SmolLM2-135M-Instruct"
EARLIER = "0024"
pytestmark = [pytest.mark.deep, pytest.mark.timeout(1800)]


def commands() -> list[str]:
    """Code blocks of the page."""
    return re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


class Shell:
    """A shell in `folder`, with `LORALEDGER_HOME` and other variables."""

    def __init__(self, folder: Path, rpc_url: str) -> None:
        self._folder, self._rpc_url = folder, rpc_url
        programs = folder / ".bin"
        programs.mkdir()
        (programs / "loraledger").write_text(f'#!/bin/sh\nexec {sys.executable} -m backend.cli.main "$@"\n')
        (programs / "loraledger").chmod(0o755)
        cache = os.environ.get("LORALEDGER_MODEL_CACHE", str(ROOT / ".loraledger" / "cache" / "models"))
        self.environment = {
            "PATH": f"{programs}{os.pathsep}{os.defpath}",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "LORALEDGER_HOME": str(folder / "first"),
            "LORALEDGER_MODEL_CACHE": cache,
            "LORALEDGER_API_PORT": str(free_port()),
            "LORALEDGER_BATCH_SECONDS": "1",
        }

    def run(self, script: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self._folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def up(self) -> Iterator[None]:
        """Run the market's processes for the block."""
        argv = [str(self._folder / ".bin" / "loraledger"), "up", "--json", "--rpc-url", self._rpc_url]
        with (
            (self._folder / "up.log").open("ab") as log,
            subprocess.Popen(
                argv, cwd=self._folder, env=self.environment, stdout=subprocess.PIPE, stderr=log
            ) as process,
        ):
            assert process.stdout is not None
            try:
                assert process.stdout.readline(), (self._folder / "up.log").read_text()
                yield
            finally:
                process.send_signal(signal.SIGTERM)

    def ask(self) -> None:
        assert self.run(f"loraledger chat {BASE} 'What is the capital of France?' --max-tokens 8").strip()

    def wait_until_settled(self, num_receipts: int) -> None:
        """Wait until batches on the chain have this many receipts, each of them right."""

        def is_settled() -> bool | None:
            audited = json.loads(self.run("loraledger audit --json"))
            assert all(batch["is_right"] for batch in audited)
            return sum(int(batch["header"]["receipts_count"]) for batch in audited) == num_receipts or None

        wait_until(is_settled, f"{num_receipts} receipts to be settled", 300)

    def query(self, sql: str) -> list[tuple[int]]:
        with sqlite3.connect(f"{self.environment['LORALEDGER_HOME']}/loraledger.db") as rows:
            return rows.execute(sql).fetchall()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with LocalNode.start(tmp_path / "node.log") as node:
        yield Shell(tmp_path, node.url)


def test_a_restored_market_goes_on_and_every_unit_is_right(shell: Shell, tmp_path: Path) -> None:
    copy_database, copy_files, restore, revoke, rotate, sign_again, check, show, back = commands()
    with shell.up():
        assert "5 dollars can be spent" in shell.run("loraledger deposit 5")
        shell.ask()
        shell.wait_until_settled(1)
        shell.run(copy_database)
        shell.run(copy_database)  # a second backup takes the place of the first
        shell.ask()  # this receipt is not in the copy, but its batch is on the chain
        shell.wait_until_settled(2)
        shell.run(copy_files)

    shell.environment["LORALEDGER_HOME"] = str(tmp_path / "restored")
    shell.run(restore)
    assert shell.query("SELECT count(*) FROM receipts") == [(1,)]
    assert shell.run(revoke) == "revoked 0 API keys and ended 2 sessions\n"  # of the two commands before
    assert shell.query("SELECT count(*) FROM sessions") == [(0,)]
    shell.environment["RECEIPT_KEY"] = local_account(2).account
    with shell.up():
        shell.run(rotate)
        shell.run(sign_again)
        shell.ask()
        shell.wait_until_settled(3)
        assert "every unit is right" in shell.run(check)
    assert shell.query("SELECT count(DISTINCT signer) FROM receipts") == [(2,)]

    before = shell.query("SELECT count(*), sum(charge) FROM receipts")
    assert shell.run(show) == f"revision {newest_revision()}, newest {newest_revision()}\n"
    shell.environment["REVISION"] = EARLIER
    assert shell.run(back) == f"revision {EARLIER}\nrevision {newest_revision()}\n"
    assert shell.query("SELECT count(*), sum(charge) FROM receipts") == before
    with shell.up():
        shell.ask()
        shell.wait_until_settled(4)
