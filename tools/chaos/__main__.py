"""Breaks a running market, part by part: `python -m tools.chaos [--kills N] [--only PATTERN] [--json]`.

Clients ask without a pause, and a fine-tuning job runs. N times a random process is killed with SIGKILL at a
random moment, then all of them at once; then each other fault of `tools.chaos.faults` strikes. After each an
answer must come within 30 s; a later one is reported, and fails the run at its end. Then, without traffic,
every job must have succeeded and every receipt become final exactly once, and all balances must equal the
chain's, or the run ends there. The exit code is 1 unless all promises were kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.domain.errors import DomainError
from tools.chaos.checks import Ledger, check_money, seconds_until_served, settle, token_funds
from tools.chaos.errors import ChaosError
from tools.chaos.faults import DISK_FULL, KILL_UP, KILLED, OTHERS, Fault, kill
from tools.chaos.market import ChaosMarket
from tools.chaos.report import CpuWait, table
from tools.chaos.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.domain.ids import Account

REPORT = Path("build", "chaos", "report.json")
MAX_CALM_SECONDS = 8.0
"""Longest time between the begin of the traffic and the fault."""
KILLS_PER_SETTLEMENT = 10
SETTLEMENTS_PER_JOB = 3
"""A job computes for a minute or more, so it runs in every third group of kills."""
GIVE_UP_LIMITS = 10
"""A market that is not back after this many times the limit is not waited for."""


@dataclass(frozen=True, slots=True)
class Round:
    """A fault and what followed.

    `usual_seconds`: median duration of an answer in this round before the fault; None without one.
    `waiting_ppm`: part of the time until the answer in which a process of this machine waited for a
    processor; None where the kernel does not say. `receipts`, `charged`, `jobs`: all so far, once settled;
    None where the money was counted after a later fault.
    """

    fault: str
    back_after_seconds: float
    usual_seconds: float | None
    waiting_ppm: int | None
    answers: int
    failures: int
    receipts: int | None = None
    charged: int | None = None
    jobs: int | None = None


class Game:
    """Strikes faults under traffic, and checks the market after each."""

    def __init__(self, market: ChaosMarket, seed: int, limit: float) -> None:
        self._market, self._limit = market, limit
        self._dice = random.Random(seed)  # noqa: S311 - repeatable by its seed
        self._before: dict[Account, int] = token_funds(market)
        self._traffic = Traffic(market.facts["api"], market.base_model, market.keys[1:])

    def play(self, fault: Fault, *, must_settle: bool) -> Round:
        """Errors: `ChaosError`."""
        market, traffic = self._market, self._traffic
        answers, failures = traffic.counts.answers, traffic.counts.failures
        with traffic:
            if fault.with_job and not market.jobs.is_pending:
                market.jobs.start()
            time.sleep(self._dice.uniform(0.5, MAX_CALM_SECONDS))
            usual = traffic.usual_seconds
            over_since = fault.strike(market)
            waiting = CpuWait()
            limit = GIVE_UP_LIMITS * self._limit
            seconds = seconds_until_served(traffic, market.keys[0], limit, over_since)
        return Round(
            fault.name,
            round(seconds, 1),
            None if usual is None else round(usual, 2),
            waiting.ppm(),
            traffic.counts.answers - answers,
            traffic.counts.failures - failures,
            *(self._settle() if must_settle else ()),
        )

    def _settle(self) -> tuple[int, int, int]:
        """Receipts, their charges and jobs, once all are final and right. Errors: `ChaosError`."""
        self._traffic.bills += self._market.jobs.finish()
        ledger: Ledger = settle(self._market)
        check_money(self._market, self._traffic, ledger, self._before)
        return ledger.receipts, ledger.charged, ledger.jobs


def faults(kills: int, seed: int, *, has_disk: bool) -> Iterator[tuple[Fault, bool]]:
    """The faults, each with whether the money is counted after it."""
    dice = random.Random(seed)  # noqa: S311 - repeatable by its seed
    for number in range(kills):
        # Each process at least once, where there are as many kills.
        name = KILLED[number] if number < len(KILLED) else dice.choice(KILLED)
        with_job = number // KILLS_PER_SETTLEMENT % SETTLEMENTS_PER_JOB == 0
        yield kill(name, with_job=with_job), (number + 1) % KILLS_PER_SETTLEMENT == 0 or number == kills - 1
    for fault in (KILL_UP, *OTHERS, *([DISK_FULL] if has_disk else [])):
        yield fault, True


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="processes that are killed (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices (default: 1)")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds until an answer (default: 30)")
    parser.add_argument("--only", default="", help="only faults with this pattern in their name")
    parser.add_argument("--no-disk", action="store_true", help="without the full disk, which needs root")
    parser.add_argument("--json", action="store_true", help="print one JSON object per fault")
    options = parser.parse_args()
    chosen = [
        each
        for each in faults(options.kills, options.seed, has_disk=not options.no_disk)
        if re.search(options.only, each[0].name)
    ]
    chosen[-1:] = [(fault, True) for fault, _ in chosen[-1:]]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the market too
    rounds, base_model, error = run(chosen, options)
    late = [each.fault for each in rounds if each.back_after_seconds > options.limit]
    if error is None and late:
        error = f"back later than {options.limit:g} s after {', '.join(late)}"
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    report = {
        **circumstances(options),
        "base_model": base_model,
        "rounds": [asdict(each) for each in rounds],
        "error": error,
    }
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report["rounds"]))
    verdict = "all promises kept" if error is None else f"FAILED {error}"
    print(f"{len(rounds)} of {len(chosen)} faults, {verdict}; {REPORT}", file=sys.stderr)
    return 1 if error is not None or not chosen else 0


def circumstances(options: argparse.Namespace) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "seed": options.seed,
        "kills": options.kills,
        "limit_seconds": options.limit,
        "processors": len(os.sched_getaffinity(0)),
    }


def run(chosen: list[tuple[Fault, bool]], options: argparse.Namespace) -> tuple[list[Round], str, str | None]:
    """The rounds up to the first broken promise, the base model, and which promise it is."""
    rounds: list[Round] = []
    base_model = ""
    fault_name = "start"
    with tempfile.TemporaryDirectory(prefix="loraledger-chaos-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # as root, the database runs as another user
        try:
            with ChaosMarket(Path(folder), has_disk=not options.no_disk) as market:
                base_model = market.base_model
                game = Game(market, options.seed, options.limit)
                for fault, must_settle in chosen:
                    fault_name = fault.name
                    rounds.append(game.play(fault, must_settle=must_settle))
                    print_round(rounds[-1], as_json=options.json)
        except (ChaosError, DomainError) as error:
            return rounds, base_model, f"{fault_name}: {error}"
    return rounds, base_model, None


def print_round(round_: Round, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(round_)), flush=True)
        return
    money = (
        ""
        if round_.receipts is None
        else f"  {round_.receipts} receipts final, {round_.charged} micro-units, {round_.jobs} jobs"
    )
    print(
        f"{round_.fault:26} back after {round_.back_after_seconds:5.1f} s  {round_.answers:4} answers  "
        f"{round_.failures:4} failed{money}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
