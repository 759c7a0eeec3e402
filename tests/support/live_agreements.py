"""API processes that sample their answers, on one scripted installation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.live_agreement import LiveAgreement
from backend.domain.money import PPM
from backend.services.answers.live_agreement import COMMITTED_SECONDS
from tests.support.fakes import FakeGradients
from tests.support.serving import request

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.chain import BlockRef
    from tests.support.scripted_installation import ScriptedInstallation

PROBED = {0: 3.0, 1: 2.0, 3: 1.0}
"""Scores of the default method; the fake gradients rank the same contributions alike."""


class OneMethod:
    """Scores by `PROBED`, or as the test says."""

    method = "distilled-1"

    def __init__(self) -> None:
        self.scored = PROBED

    def is_prepared(self, _: Path) -> bool:
        return True

    def prepare(self, adapter_folder: Path) -> None:
        """Needs nothing."""

    def scores(self, *_: object) -> dict[int, float]:
        return self.scored


class SamplingProcess:
    """An API process with a sample: answers by `method`, and what it measures of them."""

    def __init__(self, installation: ScriptedInstallation, rate_ppm: int = PPM) -> None:
        self.installation, self.gradients = installation, FakeGradients()
        self.method = OneMethod()
        installation.attributors = (self.method,)
        self.sampling = installation.sampling(rate_ppm, self.gradients)
        self.generate = installation.generating(60, live_agreements=self.sampling)

    async def answer(self, model: str = "") -> str:
        """Serves one answer; returns its response hash."""
        wanted = request(self.installation, model or self.installation.version)
        answer = await self.generate.start(wanted)
        async for _ in answer.chunks():
            pass
        return str(answer.final.charged.interval.response_hash)

    async def run(self) -> LiveAgreement:
        await self.sampling.run_once()
        return figures(self.installation)


async def started(installation: ScriptedInstallation, rate_ppm: int = PPM) -> SamplingProcess:
    process = SamplingProcess(installation, rate_ppm)
    await process.run()
    return process


def figures(installation: ScriptedInstallation) -> LiveAgreement:
    with installation.read() as tx:
        found = tx.live_agreements.of([installation.version])
        assert tx.live_agreements.total() == found.get(installation.version, LiveAgreement())
        return tx.live_agreements.total()


def mined(installation: ScriptedInstallation, name: str = "") -> BlockRef:
    """A block after all answers so far, which may sample now."""
    installation.clock.pass_seconds(1)
    block = installation.view.mine(name)
    installation.clock.pass_seconds(COMMITTED_SECONDS)
    return block
