"""Breaks a running market, part by part: `python -m tools.chaos [--kills N] [--only NAME] [--json]`.

Clients ask without a pause. N times a random process is killed with SIGKILL at a random moment, then all of
them at once; then the chain, the database and the disk fail, the chain reorganises, and an engine hangs.
After each fault an answer must come within 30 s. Then, without traffic, every receipt must become final
exactly once, and all balances must equal the chain's. Otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tools.chaos.checks import Ledger, check_money, seconds_until_served, settle, token_funds
from tools.chaos.faults import DISK_FULL, KILL_UP, KILLED, OTHERS, Fault, kill
from tools.chaos.market import ChaosError, ChaosMarket
from tools.chaos.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.domain.ids import Account

REPORT = Path("build", "chaos", "report.json")
BASE_MODEL = "SmolLM2-135M-Instruct"
MAX_CALM_SECONDS = 5.0
"""Longest time between the begin of the traffic and the fault."""
KILLS_PER_SETTLEMENT = 10


@dataclass(frozen=True, slots=True)
class Round:
    """A fault and what followed. `receipts`, `charged`: all so far, once settled; None where the money was
    counted after a later fault.
    """

    fault: str
    back_after_seconds: float
    answers: int
    failures: int
    receipts: int | None = None
    charged: int | None = None


class Game:
    """Strikes faults under traffic, and checks the market after each."""

    def __init__(self, market: ChaosMarket, seed: int, limit: float) -> None:
        self._market, self._limit = market, limit
        self._dice = random.Random(seed)  # noqa: S311 - repeatable by its seed
        self._before: dict[Account, int] = token_funds(market)
        self._traffic = Traffic(market.facts["api"], BASE_MODEL, market.keys[1:])

    def play(self, fault: Fault, *, must_settle: bool) -> Round:
        """Errors: `ChaosError`."""
        market, traffic = self._market, self._traffic
        answers, failures = traffic.counts.answers, traffic.counts.failures
        with traffic:
            time.sleep(self._dice.uniform(0.5, MAX_CALM_SECONDS))
            fault.strike(market)
            seconds = seconds_until_served(traffic, market.keys[0], self._limit)
        ledger: Ledger | None = None
        if must_settle:
            ledger = settle(market)
            check_money(market, traffic, ledger, self._before)
        return Round(
            fault.name,
            round(seconds, 1),
            traffic.counts.answers - answers,
            traffic.counts.failures - failures,
            None if ledger is None else ledger.receipts,
            None if ledger is None else ledger.charged,
        )


def faults(kills: int, seed: int, *, has_disk: bool) -> Iterator[tuple[Fault, bool]]:
    """The faults, each with whether the money is counted after it."""
    dice = random.Random(seed)  # noqa: S311 - repeatable by its seed
    for number in range(kills):
        # Each process at least once, where there are as many kills.
        name = KILLED[number] if number < len(KILLED) else dice.choice(KILLED)
        yield kill(name), (number + 1) % KILLS_PER_SETTLEMENT == 0 or number == kills - 1
    for fault in (KILL_UP, *OTHERS, *([DISK_FULL] if has_disk else [])):
        yield fault, True


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="processes that are killed (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices (default: 1)")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds until an answer (default: 30)")
    parser.add_argument("--only", default="", help="only faults whose name contains this")
    parser.add_argument("--no-disk", action="store_true", help="without the full disk, which needs root")
    parser.add_argument("--json", action="store_true", help="print one JSON object per fault")
    options = parser.parse_args()
    chosen = [
        (fault, must_settle or bool(options.only))
        for fault, must_settle in faults(options.kills, options.seed, has_disk=not options.no_disk)
        if options.only in fault.name
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the market too
    rounds, error = run(chosen, options)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    report = {"rounds": [asdict(each) for each in rounds], "seed": options.seed, "error": error}
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    verdict = "all promises kept" if error is None else f"FAILED {error}"
    print(f"{len(rounds)} of {len(chosen)} faults, {verdict}; {REPORT}", file=sys.stderr)
    return 1 if error is not None or not chosen else 0


def run(chosen: list[tuple[Fault, bool]], options: argparse.Namespace) -> tuple[list[Round], str | None]:
    """The rounds up to the first broken promise, and which it is."""
    rounds: list[Round] = []
    fault_name = "start"
    with tempfile.TemporaryDirectory(prefix="loraledger-chaos-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # as root, the database runs as another user
        try:
            with ChaosMarket(Path(folder), has_disk=not options.no_disk) as market:
                game = Game(market, options.seed, options.limit)
                for fault, must_settle in chosen:
                    fault_name = fault.name
                    rounds.append(game.play(fault, must_settle=must_settle))
                    print_round(rounds[-1], as_json=options.json)
        except ChaosError as error:
            return rounds, f"{fault_name}: {error}"
    return rounds, None


def print_round(round_: Round, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(round_)), flush=True)
        return
    money = (
        "" if round_.receipts is None else f"  {round_.receipts} receipts final, {round_.charged} micro-units"
    )
    print(
        f"{round_.fault:26} back after {round_.back_after_seconds:5.1f} s  {round_.answers:4} answers  "
        f"{round_.failures:4} failed{money}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
