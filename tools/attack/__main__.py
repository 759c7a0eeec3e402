"""Attacks a local market as a dishonest operator: `python -m tools.attack [--json] [--kill] [--only NAME]`.

Each attack commits a wrong batch against `loraledger watch --challenge`, a process that knows only the chain
and published batch data. The watcher must have the batch voided, the payers' channels must be restored to the
unit, and an honest batch of the same receipts must become final and pay out. Otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Self

from backend.chain.client import ChainClient
from backend.chain.local_node import LocalNode
from backend.deployment.deployment_file import save_deployment
from backend.deployment.local import deploy_local
from backend.domain.money import COIN
from backend.storage.embedded import EmbeddedStore
from tools.attack.attack_market import AttackMarket, AttackMarketError
from tools.attack.attacks import ATTACKS, TIMED_ATTACKS
from tools.attack.play import Round, play

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.domain.batch import Header

WINDOW_SECONDS = 48
STOP_SECONDS = 20
KILL_SECONDS = 1.0
WATCH = (sys.executable, "-m", "backend.cli.main", "watch", "--json")


class WatcherProcess:
    """`loraledger watch` in a home with only the deployment file and a block store."""

    def __init__(self, home: Path, rpc_url: str, *options: str) -> None:
        self._home, self._log = home, home / "watch.log"
        self._command = [*WATCH, *options]
        self._environment = os.environ | {"LORALEDGER_HOME": str(home), "LORALEDGER_RPC_URL": rpc_url}
        self.events: list[dict[str, str]] = []
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                self._command, env=self._environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        threading.Thread(target=self._read, args=[process], daemon=True).start()
        return process

    def kill(self) -> None:
        """Kill the process with SIGKILL, delete its database, and start it again."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._home / "watch", ignore_errors=True)
        self._process = self._start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self.events.append(json.loads(line))

    def is_right(self, header: Header) -> bool:
        """Whether the watcher reported the batch as right. Errors: `AttackMarketError` if it ended."""
        if self._process.poll() is not None:
            raise AttackMarketError(f"the watcher ended:\n{self._log.read_text()[-2000:]}")
        return any((e["what"], e["batch_hash"]) == ("right", header.hash) for e in self.events)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Step:
    """Waits between two polls, and kills the given watcher once, a second into the round."""

    def __init__(self, victim: WatcherProcess | None) -> None:
        self._victim, self._kill_at = victim, time.monotonic() + KILL_SECONDS

    def __call__(self) -> None:
        if self._victim is not None and time.monotonic() > self._kill_at:
            self._victim.kill()
            self._victim = None
        time.sleep(0.2)


@contextmanager
def local_market(folder: Path) -> Iterator[tuple[AttackMarket, WatcherProcess]]:
    """Start a local chain, deploy and populate a market, and start two watchers: an honest challenger, which
    is returned, and the operator's own, which answers demands.
    """
    home, operators_home = folder / "home", folder / "operator"
    home.mkdir()
    operators_home.mkdir()
    (operators_home / "ipfs").symlink_to(home / "ipfs")
    with LocalNode.start(folder / "chain.log") as node:
        deployment = deploy_local(node.url, dispute_window=WINDOW_SECONDS)
        for each in (home, operators_home):
            save_deployment(deployment, each / "deployment.json")
        chain = ChainClient.connect(node.url, deployment)
        market = AttackMarket(chain, EmbeddedStore(home / "ipfs"), folder)
        try:
            challenge = ("--challenge", "--no-answer", "--evidence", str(market.evidence))
            with (
                WatcherProcess(home, node.url, *challenge) as watcher,
                WatcherProcess(operators_home, node.url),
            ):
                yield market, watcher
        finally:
            market.close()
            chain.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object per round")
    parser.add_argument("--kill", action="store_true", help="kill the watcher one second into every round")
    parser.add_argument("--only", default="", help="run only attacks whose name contains this")
    options = parser.parse_args()
    attacks = [attack for attack in (*ATTACKS, *TIMED_ATTACKS) if options.only in attack.name]
    num_failed = 0
    with (
        tempfile.TemporaryDirectory(prefix="loraledger-attack-") as folder,
        local_market(Path(folder)) as (
            market,
            watcher,
        ),
    ):
        for attack in attacks:
            try:
                step = Step(watcher if options.kill else None)
                print_round(play(market, attack, watcher.is_right, step), as_json=options.json)
            except AttackMarketError as error:
                num_failed += 1
                print(f"FAILED  {attack.name}: {error}", file=sys.stderr)
                break  # the market is not in the state that the next round needs
    print(f"{len(attacks)} rounds, {num_failed} failed", file=sys.stderr)
    return 1 if num_failed or not attacks else 0


def print_round(round_: Round, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(round_)), flush=True)
        return
    status = f"void by {round_.proof}" if round_.proof else "final"
    print(
        f"{round_.attack:34} {status:20} {round_.seconds:5.1f} s  {round_.num_leaves:3} leaves opened  "
        f"{round_.paid_units:6} units paid"
        + (f"  bonds of {round_.bonds / COIN:.3f} ether" if round_.bonds else ""),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
