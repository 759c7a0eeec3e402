"""Strikes faults under traffic, and checks the market after each."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from backend.domain.money import in_dollars
from tools.chaos.checks import (
    charged_failures,
    check_charged_failures,
    check_money,
    seconds_until_ready,
    seconds_until_served,
    settle,
    token_funds,
)
from tools.chaos.faults import KILLED
from tools.chaos.report import CpuWait, Round
from tools.chaos.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.chaos.faults import Fault
    from tools.chaos.market import ChaosMarket

MAX_CALM_SECONDS = 8.0
"""Longest time between the begin of the traffic and the fault."""
GIVE_UP_LIMITS = 10
"""A market that is not back after this many times the limit is not waited for."""


class Game:
    """`limit`: seconds in which an answer must come. `say` is called with a line of text."""

    def __init__(self, market: ChaosMarket, seed: int, limit: float, say: Callable[[str], None]) -> None:
        self._market, self._limit, self._say = market, limit, say
        self._dice = random.Random(seed)  # noqa: S311 - repeatable by its seed
        self._before = token_funds(market)
        models = [market.base_model, market.adapter]
        self._traffic = Traffic(market.facts["api"], models, market.keys[1:])
        self._num_charged_failures = 0

    def play(self, fault: Fault, *, must_settle: bool) -> Round:
        """Errors: `ChaosError`."""
        market, traffic = self._market, self._traffic
        answers, failed = len(traffic.bills), traffic.reasons.total()
        reasons = traffic.reasons + market.jobs.refusals
        with traffic:
            if fault.with_job and not market.jobs.is_pending:
                market.jobs.start()
            time.sleep(self._dice.uniform(0.5, MAX_CALM_SECONDS))
            usual = traffic.usual_seconds
            killed = {name: market.pid(name) for name in fault.kills}
            over_since = fault.strike(market) or time.monotonic()
            waiting = CpuWait()
            limit = GIVE_UP_LIMITS * self._limit
            with ThreadPoolExecutor(1) as pool:
                ready = pool.submit(seconds_until_ready, market, killed, limit, over_since)
                seconds = seconds_until_served(traffic, market.keys[0], limit, market.check_up, over_since)
                waited_ppm = waiting.ppm()
            market.await_up()
        settled = self._settle() if must_settle else ()
        charged = charged_failures(market, traffic.bills) - self._num_charged_failures
        check_charged_failures(fault, charged, traffic.reasons.total() - failed)
        self._num_charged_failures += charged
        return Round(
            fault.name,
            round(seconds, 1),
            round(ready.result(), 1) if killed else None,
            None if usual is None else round(usual, 2),
            waited_ppm,
            len(traffic.bills) - answers,
            dict(traffic.reasons + market.jobs.refusals - reasons),
            charged,
            *settled,
        )

    def _settle(self) -> tuple[int, int, int, int]:
        """Receipts, what they charge, jobs, and what the earners received, once all is final and right.

        Errors: `ChaosError`.
        """
        for name in KILLED:
            self._market.pid(name)  # each runs again
        if self._market.jobs.is_pending:
            self._say("waiting for the fine-tuning jobs")
        self._market.jobs.finish()
        self._say("waiting for every receipt to become final")
        totals = settle(self._market)
        self._say("contributor and creator claim")
        earners = self._market.claim()
        received = check_money(self._market, self._traffic.bills, totals, self._before, earners)
        self._say(
            f"{totals.receipts} receipts are final, each once, for {in_dollars(totals.charged)}; "
            f"{totals.jobs} jobs are paid; contributor and creator have received {in_dollars(received)}; "
            f"all balances equal the chain's"
        )
        return totals.receipts, totals.charged, totals.jobs, received
