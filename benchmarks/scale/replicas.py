"""Measures one, two and four engines behind the router: `python -m benchmarks.scale.replicas --json`.

Clients in a closed loop request adapters by Zipf's law; an engine's memory holds a part of the adapters. The
router and round robin take turns on the same engines, each after requests that are not counted. At the end an
engine is killed in the middle of a run. About eight minutes on two idle cores; a run that takes longer than
five minutes fails. `python -m benchmarks.scale --render --replicas FILE` shows the JSON in docs/scale.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.domain.errors import Unavailable
from backend.engine.replicas import Replicas
from benchmarks.engine import machine
from benchmarks.engine.adapters import make_adapters
from benchmarks.engine.measure import percentile
from benchmarks.model_options import add_model_options, model_of
from benchmarks.scale.engines import Engine, RoundRobin, processes
from inference.lora.files import adapter_digest
from inference.model.sources import model_name
from inference.protocol import AdapterRef, Generate, Sampling

if TYPE_CHECKING:
    import subprocess
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Iterator,
        Mapping,
        Sequence,
    )


NUMBERS = (1, 2, 4)
RUN_SECONDS = 300.0
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
"""Resolution of the engines' processor time."""
WORK = Path("build", "bench")
AFFINITY, ROUND_ROBIN = "affinity", "round robin"


@dataclass(frozen=True, slots=True)
class Load:
    """`warm_up`: requests before each run, which are not counted. `resident`: adapters that fit into the
    memory of one engine. `tokens`: of an answer.
    """

    adapters: int = 64
    resident: int = 16
    clients: int = 16
    warm_up: int = 300
    requests: int = 300
    tokens: int = 16
    repeats: int = 3

    def each(self, refs: Sequence[AdapterRef], run: str, seed: int, count: int) -> Iterator[Generate]:
        """Requests: the adapters follow from the seed. No run has a prompt of another one, which the engines
        may still have in their prefix caches.
        """
        dice = random.Random(seed)  # noqa: S311 - repeatable
        weights = [1 / rank for rank in range(1, len(refs) + 1)]
        sampling = Sampling(max_tokens=self.tokens, temperature=0.0, ignore_eos=True)
        for number in range(count):
            (adapter,) = dice.choices(refs, weights)
            text = f"{run}, request {number}: tell me about the number {dice.randrange(10**9)}."
            yield Generate(f"{run}-{number}", prompt=text, adapter=adapter, sampling=sampling)


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. `tokens_per_cpu_second`: over the engines' processor time. `hit_rate`: requests for which no
    adapter was read from the disk. `imbalance`: requests of the busiest engine over the mean. `failed`:
    answers that ended with an error. `other_cpu`: share of the machine that other processes used.
    """

    tokens_per_second: float
    tokens_per_cpu_second: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    hit_rate: float
    imbalance: float
    failed: float
    other_cpu: float


@dataclass(frozen=True, slots=True)
class Killed:
    """A run in which the engine with most requests was killed. `running`: its requests at that moment;
    `begun`: those of them that had a token. The rest is of all engines.
    """

    engines: int
    requests: int
    running: int
    begun: int
    failed: int
    tokens_per_second_before: float
    tokens_per_second_after: float
    ttft_p99_ms_before: float
    ttft_p99_ms_after: float
    other_cpu: float


@dataclass(slots=True)
class Answers:
    """What the clients saw, with times of `time.perf_counter`. `chunks`: when tokens came, and how many.
    `waits`: when a first token came, and after how many seconds; without the first request of each client,
    which all send at once.
    """

    chunks: list[tuple[float, int]] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    failed: int = 0

    def tokens_per_second(self, since: float, until: float) -> float:
        tokens = sum(count for at, count in self.chunks if since < at <= until)
        return round(tokens / (until - since), 1)

    def wait_ms(self, percent: float, since: float, until: float) -> float:
        """Percentile of the times to first tokens that came in this interval."""
        waits = [wait for at, wait in self.waits if since < at <= until]
        return round(1e3 * percentile(waits, percent), 1)


class Bench:
    """Runs the load on engines, which stay connected between runs."""

    def __init__(self, load: Load, refs: Sequence[AdapterRef], engines: Sequence[Engine]) -> None:
        self._load, self._refs, self._engines = load, refs, engines
        self._runs = itertools.count()

    async def measure(self, router: str, seed: int) -> Figures:
        """One run after a warm-up. The adapters follow from the seed."""
        async with self._router(router) as target:
            await self.serve(target, 2 * seed, self._load.warm_up)
            before = [each.num_requests for each in self._engines]
            loads, usage, cpu = await self._num_loads(), _Usage(), self._cpu_seconds()
            answers, began, ended = await self.serve(target, 2 * seed + 1, self._load.requests)
            cpu = self._cpu_seconds() - cpu
            loads = await self._num_loads() - loads
        parts = [each.num_requests - num for each, num in zip(self._engines, before, strict=True)]
        return Figures(
            tokens_per_second=answers.tokens_per_second(began, ended),
            tokens_per_cpu_second=round(
                sum(count for _, count in answers.chunks) / max(cpu, TICK_SECONDS), 1
            ),
            ttft_p50_ms=answers.wait_ms(50, began, ended),
            ttft_p99_ms=answers.wait_ms(99, began, ended),
            hit_rate=round(1 - loads / self._load.requests, 3),
            imbalance=round(max(parts) * len(parts) / sum(parts), 2),
            failed=answers.failed,
            other_cpu=usage.other_share(cpu),
        )

    async def measure_killed(self, seed: int) -> Killed:
        """A run in the middle of which an engine is killed. It is the last one of these engines."""
        running: list[bool] = []
        moment, usage, cpu, survivors = 0.0, _Usage(), self._cpu_seconds(), list(self._engines)

        async def kill() -> None:
            nonlocal moment, cpu
            victim = max(self._engines, key=lambda each: len(each.running))
            running.extend(victim.running.values())
            survivors.remove(victim)
            cpu -= victim.cpu_seconds()  # what it used counts, and it cannot be asked afterwards
            moment = time.perf_counter()
            victim.process.kill()

        async with self._router(AFFINITY) as target:
            await self.serve(target, 2 * seed, self._load.warm_up)
            answers, began, ended = await self.serve(target, 2 * seed + 1, self._load.requests, kill)
        cpu = sum(each.cpu_seconds() for each in survivors) - cpu
        return Killed(
            engines=len(self._engines),
            requests=self._load.requests,
            running=len(running),
            begun=sum(running),
            failed=answers.failed,
            tokens_per_second_before=answers.tokens_per_second(began, moment),
            tokens_per_second_after=answers.tokens_per_second(moment, ended),
            ttft_p99_ms_before=answers.wait_ms(99, began, moment),
            ttft_p99_ms_after=answers.wait_ms(99, moment, ended),
            other_cpu=usage.other_share(cpu),
        )

    @contextlib.asynccontextmanager
    async def _router(self, name: str) -> AsyncIterator[Any]:
        if name == ROUND_ROBIN:
            yield RoundRobin(self._engines)
            return
        target = Replicas({str(number): each for number, each in enumerate(self._engines, start=1)})
        try:
            yield target
        finally:
            await target.close()

    async def serve(
        self, target: Any, seed: int, count: int, at_half: Callable[[], Awaitable[None]] | None = None
    ) -> tuple[Answers, float, float]:
        """The answers to `count` requests, and when the first was sent and the last ended."""
        answers, name = Answers(), f"run {next(self._runs)}"
        pending = enumerate(self._load.each(self._refs, name, seed, count))

        async def client() -> None:
            for number, request in pending:
                if at_half is not None and number == count // 2:
                    await at_half()
                await _answer(target, request, answers, has_wait=number >= self._load.clients)

        began = time.perf_counter()
        try:
            async with asyncio.timeout(RUN_SECONDS):
                await asyncio.gather(*(client() for _ in range(self._load.clients)))
        except TimeoutError as error:
            reason = f"{name} of {count} requests took more than {RUN_SECONDS:g} s"
            raise RuntimeError(f"{reason}; give fewer --requests, or an idle machine") from error
        return answers, began, time.perf_counter()

    async def _num_loads(self) -> int:
        """Adapters that the engines have read so far."""
        return sum([(await each.status()).adapter_loads for each in self._engines])

    def _cpu_seconds(self) -> float:
        return sum(each.cpu_seconds() for each in self._engines)


async def _answer(target: Any, request: Generate, answers: Answers, *, has_wait: bool) -> None:
    """Add one answer. `has_wait`: whether its time to the first token counts."""
    began, is_first = time.perf_counter(), has_wait
    try:
        async for chunk in target.generate(request):
            now = time.perf_counter()
            if is_first:
                answers.waits.append((now, now - began))
            is_first = False
            answers.chunks.append((now, len(chunk.token_ids)))
    except Unavailable:
        answers.failed += 1


class _Usage:
    """Use of the machine from now on."""

    def __init__(self) -> None:
        self._before = machine.Usage.now(os.getpid())

    def other_share(self, engines_cpu: float) -> float:
        """Share of the machine that neither this process nor the engines used, 0 to 1."""
        now = machine.Usage.now(os.getpid())
        seconds = (now.at - self._before.at) * (os.cpu_count() or 1)
        return round(max(0.0, now.other_share_since(self._before) - engines_cpu / seconds), 3)


async def measure_engines(
    load: Load, refs: Sequence[AdapterRef], engines: Sequence[Engine]
) -> AsyncIterator[tuple[str, Figures | Killed]]:
    """Each run with the name of its router. With one engine there is nothing to route."""
    bench = Bench(load, refs, engines)
    for repeat in range(load.repeats):
        routers = [AFFINITY, ROUND_ROBIN] if len(engines) > 1 else [AFFINITY]
        for router in routers if repeat % 2 == 0 else reversed(routers):
            yield router, await bench.measure(router, repeat)
    if len(engines) > 1:
        yield AFFINITY, await bench.measure_killed(load.repeats)


async def _measure(
    load: Load,
    refs: Sequence[AdapterRef],
    started: Sequence[tuple[subprocess.Popen[bytes], Path]],
    found: dict[str, Any],
) -> None:
    """Add the runs on these engines to `found`, and print each."""
    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(Engine(process, socket)) for process, socket in started]
        async for router, figures in measure_engines(load, refs, engines):
            row = asdict(figures)
            print(json.dumps({"engines": len(engines), "router": router} | row), file=sys.stderr, flush=True)
            if isinstance(figures, Killed):
                found["killed"].append(row)
            else:
                _add(found["runs"], len(engines), router, row)


def _add(runs: list[dict[str, Any]], engines: int, router: str, row: Mapping[str, float]) -> None:
    """Add a repeat: each figure has its values in order."""
    key: dict[str, Any] = {"engines": engines, "router": router}
    known = next((run for run in runs if run.items() >= key.items()), None)
    if known is None:
        known = key | {name: [] for name in row}
        runs.append(known)
    for name, value in row.items():
        known[name] = sorted([*known[name], value])


def measure(model: Path, load: Load, numbers: Sequence[int], folder: Path = WORK) -> dict[str, Any]:
    """All runs, as JSON. `folder`: of the adapters."""
    folders = make_adapters(folder / "adapters", model, load.adapters)
    refs = [AdapterRef(adapter_digest(folder), str(folder)) for folder in folders]
    found: dict[str, Any] = {"model": model_name(model), "load": asdict(load), "machine": machine.describe()}
    found |= {"commit": machine.commit(), "runs": [], "killed": []}
    for number in numbers:
        with processes(number, model, load.resident) as started:
            asyncio.run(_measure(load, refs, started, found))
    found["finished_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    return found


def main() -> int:
    options = _parser().parse_args()
    load = Load(**{name: getattr(options, name) for name in Load.__dataclass_fields__})
    found = measure(model_of(options), load, options.engines)
    if options.json:
        print(json.dumps(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale.replicas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, usual = parser.add_argument, Load()
    add_model_options(parser)
    add("--engines", type=int, nargs="+", default=NUMBERS, help="default: 1 2 4")
    for name, text in {
        "adapters": "adapters on disk",
        "resident": "adapters that fit into an engine's memory",
        "clients": "requests at a time",
        "warm_up": "requests before each run, which are not counted",
        "requests": "requests of a run",
        "tokens": "tokens of an answer",
        "repeats": "runs of each router",
    }.items():
        value = getattr(usual, name)
        add(f"--{name.replace('_', '-')}", type=int, default=value, help=f"{text}; default: {value}")
    add("--json", action="store_true", help="print a JSON object at the end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
