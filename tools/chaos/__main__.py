"""Breaks a running market, part by part: `python -m tools.chaos [--kills N] [--only PATTERN] [--json]`.

Clients ask the base model and an adapter without a pause, and a fine-tuning job runs. N times a random
process is killed with SIGKILL at a random moment, then all of them at once; then each other fault of
`tools.chaos.faults` strikes. After each both models must answer within 30 s; later answers are reported, and
fail the run at its end. No failed request may be charged, except where the API or its database ended before
the bill was delivered. After every tenth kill and after each other fault, without traffic, all processes must
run again, every job must have succeeded, every receipt be final exactly once, the adapter's contributor
and creator receive what they claim, and all balances equal the chain's, or the run ends there. The report is
written after each fault: a run that is stopped keeps it. The exit code is 1 unless all promises were kept.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from backend.domain.errors import DomainError
from tools.chaos.errors import ChaosError
from tools.chaos.faults import DISK_FULL, KILL_UP, KILLED, OTHERS, Fault, kill
from tools.chaos.game import Game
from tools.chaos.market import ChaosMarket
from tools.chaos.report import Report, circumstances, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.chaos.report import Round

REPORT = Path("build", "chaos", "report.json")
KILLS_PER_SETTLEMENT = 10
SETTLEMENTS_PER_JOB = 3
"""A job computes for a minute or more, so it runs in every third group of kills."""


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
    parser.add_argument(
        "--limit", type=float, default=30.0, help="seconds until both models answer (default: 30)"
    )
    parser.add_argument("--only", default="", help="only faults with this pattern in their name")
    parser.add_argument("--no-disk", action="store_true", help="without the full disk, which needs root")
    parser.add_argument("--json", action="store_true", help="print one JSON object per fault")
    options = parser.parse_args()
    chosen = [
        each
        for each in faults(options.kills, options.seed, has_disk=not options.no_disk)
        if re.search(options.only, each[0].name)
    ]
    if not chosen:
        parser.error(f"no fault is named like {options.only!r}")
    chosen[-1] = (chosen[-1][0], True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the market and the report too
    report = Report(REPORT, circumstances(options, len(chosen)))
    error = run(chosen, options, report)
    late = [each.fault for each in report.rounds if each.back_after_seconds > options.limit]
    if error is None and late:
        error = f"back later than {options.limit:g} s after {', '.join(late)}"
    report.write(error)
    print(table(report.rounds))
    verdict = "all promises kept" if error is None else f"FAILED {error}"
    print(f"{len(report.rounds)} of {len(chosen)} faults, {verdict}; {REPORT}", file=sys.stderr)
    return 0 if error is None else 1


def run(chosen: list[tuple[Fault, bool]], options: argparse.Namespace, report: Report) -> str | None:
    """Strike the faults, up to the first broken promise; returns which it is."""
    at = "start"

    def say(text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')}  {text}"
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    with tempfile.TemporaryDirectory(prefix="loraledger-chaos-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # as root, the database runs as another user
        try:
            say(f"starting a market in {folder}; it takes a minute or more")
            with ChaosMarket(Path(folder), has_disk=not options.no_disk) as market:
                report.base_model = market.base_model
                game = Game(market, options.seed, options.limit, say)
                say(f"{len(chosen)} faults, base model {market.base_model}, logs in {market.home / 'logs'}")
                for number, (fault, must_settle) in enumerate(chosen, start=1):
                    at = fault.name
                    found = game.play(fault, must_settle=must_settle)
                    report.add(found)
                    if options.json:
                        print(json.dumps(asdict(found)), flush=True)
                    else:
                        say(f"{number:3}/{len(chosen)}  {describe(found)}")
        except (ChaosError, DomainError) as error:
            return f"{at}: {error}"
        except KeyboardInterrupt:
            return f"{at}: the run was stopped"
    return None


def describe(found: Round) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.reasons.items())
    ready = found.ready_after_seconds
    return (
        f"{found.fault:26} back after {found.back_after_seconds:5.1f} s  "
        f"{'' if ready is None else f'ready after {ready:5.1f} s  '}{found.answers:4} answers  "
        f"{found.failures:4} failed{f' ({reasons})' if reasons else ''}"
    )


if __name__ == "__main__":
    sys.exit(main())
