"""Runs `loraledger up` for the demo, in a separate process and home."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from backend.cli.operator.up import end_running
from backend.domain.errors import Unavailable
from backend.installation.local_network import main_command
from backend.processes.parent import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STOP_SECONDS = 90


class DemoStack:
    """Starts a new stack in an empty home; entering returns the output of `loraledger up --json`.

    `keep`: leave the stack running on exit.
    """

    def __init__(self, home: Path, environment: Mapping[str, str], *, keep: bool) -> None:
        self._home = home
        self._environment = dict(environment)
        self._keep = keep

    def __enter__(self) -> dict[str, Any]:
        end_running(self._home)
        shutil.rmtree(self._home, ignore_errors=True)
        self._home.mkdir(parents=True)
        self._log = self._home / "up.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                main_command("up", "--json"),
                env=os.environ | self._environment | {"LORALEDGER_HOME": str(self._home)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=None if self._keep else die_with_parent,  # noqa: PLW1509 - no threads yet
            )
        line = self._process.stdout.readline() if self._process.stdout else b""
        if not line:
            self._process.wait()
            raise Unavailable(f"the stack did not start; {self._log} ends with:\n{self._tail()}")
        facts: dict[str, Any] = json.loads(line)
        return facts

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        if self._keep and kind is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
