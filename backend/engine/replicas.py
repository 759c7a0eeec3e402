"""Several engines as one: implements `backend.ports.engine.Engine` over replicas of one base model.

A request goes to the replica of its adapter (`backend.engine.routing`), so that each replica keeps its own
part of the adapters in memory. A replica that fails costs the requests that it was answering, and no others;
a request that fails costs no replica. Errors of replicas are `EngineUnavailable` and `Overloaded`; any other
concerns the request alone, and is raised at once. A single engine is one replica. All methods run on one
event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.domain.errors import DomainError, InvalidInput, Overloaded
from backend.domain.ids import Hash32
from backend.engine.metric_texts import merge
from backend.engine.routing import LOAD_FACTOR, place, ranked
from backend.ports.engine import EngineState, EngineUnavailable, EngineUnreachable, MalformedMetrics
from inference.protocol import Generate, Sampling

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping

    from backend.engine.client import EngineClient
    from backend.engine.vllm import VllmEngine
    from inference.protocol import Chunk, CountTokens, TokenCount

    WatchedEngine = EngineClient | VllmEngine

log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
"""Time between two questions to a replica that is down."""
MAX_FAILURES = 2
"""Replicas that may fail at the same request: one that ends its engine must not end all of them."""


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """`stall_seconds`: a replica that answers none of its requests for so long is asked for one token, and
    given up if none of its requests gets one within `probe_seconds` either. One that fails at a request is
    asked at once.
    """

    stall_seconds: float = 60.0
    probe_seconds: float = 30.0
    load_factor: float = LOAD_FACTOR


@dataclass(eq=False, slots=True)
class _Replica:
    name: str
    engine: WatchedEngine
    load: int = 0
    progress_at: float = 0.0
    num_chunks: int = 0
    is_up: bool = True
    is_doubted: bool = False
    """It failed at a request, which may be the request's fault."""
    waits: set[asyncio.Timeout] = field(default_factory=set)
    """Of the requests that wait for their next chunk."""
    probe: asyncio.Task[None] | None = None

    def forget_probe(self, _ended: asyncio.Task[None]) -> None:
        self.probe = None


class Replicas:
    """Errors of all methods: as of the replicas; `EngineUnavailable` if none is up."""

    def __init__(
        self,
        engines: Mapping[str, WatchedEngine],
        drained: Callable[[], Collection[str]] = tuple,
        limits: ReplicaLimits = ReplicaLimits(),
    ) -> None:
        """`engines` by name; the names decide which adapters each has. `drained`: names of those that get no
        new requests.
        """
        self._replicas = [_Replica(name, engine) for name, engine in engines.items()]
        self._drained, self._limits = drained, limits
        self._running: dict[str, _Replica] = {}
        self._watch: asyncio.Task[None] | None = None
        self._numbers = itertools.count()

    async def close(self) -> None:
        """Stop watching. The engines stay open."""
        tasks = [self._watch, *(replica.probe for replica in self._replicas)]
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)

    async def count_tokens(self, request: CountTokens) -> TokenCount:
        """By the replica with the least load, or the next one if that fails."""
        last: EngineUnavailable | Overloaded = _none_left()
        failures = 0
        for replica in sorted(self._candidates(), key=lambda each: each.load):
            try:
                return await replica.engine.count_tokens(request)
            except (EngineUnavailable, Overloaded) as error:
                self._failed(replica, error)
                last = error
                failures += _concerns_request(error)
                if failures == MAX_FAILURES:
                    break
        raise last

    async def generate(self, request: Generate) -> AsyncGenerator[Chunk, None]:
        """Stream an answer. A replica that fails before the first chunk is replaced by the next one, until
        `MAX_FAILURES` have failed at the request. Later the answer fails, because another replica would
        sample other tokens.
        """
        if request.request_id in self._running:
            raise InvalidInput(f"request id {request.request_id!r} is in use", "request_id")
        tried: set[str] = set()
        failures = 0
        while True:
            replica = self._choose(request, tried)
            has_begun = False
            try:
                async with contextlib.aclosing(self._stream(replica, request)) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        yield chunk
            except (EngineUnavailable, Overloaded) as error:
                self._failed(replica, error)
                tried.add(replica.name)
                failures += _concerns_request(error)
                is_last = failures == MAX_FAILURES or all(each.name in tried for each in self._candidates())
                if has_begun or is_last:
                    raise
            else:
                return

    async def abort(self, request_id: str) -> None:
        replica = self._running.get(request_id)
        if replica is not None:
            await replica.engine.abort(request_id)

    async def state(self) -> EngineState:
        """Of all replicas that get requests: the adapters of any, the context that all have, and the format
        of the weights unless they differ.
        """
        replicas = list(self._candidates())
        found = await asyncio.gather(
            *(replica.engine.state() for replica in replicas), return_exceptions=True
        )
        for replica, error in zip(replicas, found, strict=True):
            if isinstance(error, EngineUnreachable):  # else each question would wait for the connection
                self._failed(replica, error)
        states = [each for each in found if not isinstance(each, BaseException)]
        if not states:
            raise _none_left()
        formats = {each.weight_format for each in states}
        return EngineState(
            frozenset[Hash32]().union(*(each.active_adapters for each in states)),
            min((each.max_context for each in states if each.max_context is not None), default=None),
            formats.pop() if len(formats) == 1 else None,
        )

    async def metrics(self, deadline_seconds: float) -> str:
        """The metrics of the replicas that answer with readable ones, with the label `replica` if there are
        several.
        """
        if len(self._replicas) == 1:
            return await self._replicas[0].engine.metrics(deadline_seconds)
        found = await asyncio.gather(
            *(replica.engine.metrics(deadline_seconds) for replica in self._replicas), return_exceptions=True
        )
        pairs = zip(self._replicas, found, strict=True)
        texts = {replica.name: text for replica, text in pairs if isinstance(text, str)}
        malformed = [error for error in found if isinstance(error, MalformedMetrics)]
        if not texts:
            raise malformed[0] if malformed else _none_left()
        for error in malformed:
            log.warning("%s", error)
        return merge(texts, "replica")

    def _candidates(self) -> set[_Replica]:
        """Replicas that may get requests."""
        drained = self._drained()
        return {each for each in self._replicas if each.is_up and each.name not in drained}

    def _choose(self, request: Generate, tried: Collection[str]) -> _Replica:
        """Requests without an adapter stay with the replica of their payer, whose prefixes it has."""
        loads = {each.name: each.load for each in self._candidates() if each.name not in tried}
        if not loads:
            raise _none_left()
        adapter = request.adapter_or_blend
        order = ranked(request.payer if adapter is None else adapter.digest, loads)
        name = place(order, loads, self._limits.load_factor)
        return next(each for each in self._replicas if each.name == name)

    async def _stream(self, replica: _Replica, request: Generate) -> AsyncGenerator[Chunk, None]:
        self._start_watching()
        self._running[request.request_id] = replica
        if not replica.load:
            replica.progress_at = _now()
        replica.load += 1
        try:
            async with contextlib.aclosing(replica.engine.generate(request)) as chunks:
                while (chunk := await self._next(replica, chunks)) is not None:
                    if chunk.finish_reason != "abort":  # that one needs no server which works
                        replica.progress_at = _now()
                        replica.num_chunks += 1
                    yield chunk
        finally:
            replica.load -= 1
            del self._running[request.request_id]

    async def _next(self, replica: _Replica, chunks: AsyncIterator[Chunk]) -> Chunk | None:
        """The next chunk; None at the end. The watchdog ends the wait when the replica is given up."""
        try:
            async with asyncio.timeout(None) as wait:
                replica.waits.add(wait)
                try:
                    return await anext(chunks, None)
                finally:
                    replica.waits.discard(wait)
        except TimeoutError as error:
            raise EngineUnavailable.because("it does not respond") from error

    def _failed(self, replica: _Replica, error: EngineUnavailable | Overloaded) -> None:
        """After a failure that may be the request's own, the watchdog finds out: neither a broken adapter nor
        a prompt that a server fails at may take engines from the others. A full queue is no failure.
        """
        if isinstance(error, Overloaded) or not replica.is_up:
            return
        if isinstance(error, EngineUnreachable):
            self._lose(replica, _cause(error))
        else:
            log.warning("engine %s failed at a request: %s", replica.name, _cause(error))
            replica.is_doubted = True
        self._start_watching()

    def _lose(self, replica: _Replica, reason: str) -> None:
        if replica.is_up:
            log.warning("engine %s is down: %s", replica.name, reason)
        replica.is_up = False

    def _start_watching(self) -> None:
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_all(), name="engine-watchdog")

    async def _watch_all(self) -> None:
        while any(each.load or each.is_doubted or not each.is_up for each in self._replicas):
            for replica in self._replicas:
                if replica.probe is None and self._needs_probe(replica):
                    replica.probe = asyncio.create_task(self._probe(replica))
                    replica.probe.add_done_callback(replica.forget_probe)
            await asyncio.sleep(WATCH_SECONDS)

    def _needs_probe(self, replica: _Replica) -> bool:
        if replica.is_doubted or not replica.is_up:
            return True
        return bool(replica.load) and _now() - replica.progress_at > self._limits.stall_seconds

    async def _probe(self, replica: _Replica) -> None:
        """Ask for one token; give up the replica, with all its requests, if neither this request nor another
        one gets it in time: a server that serves first come, first served may have a long queue. One that was
        up and computes is kept too: a long prompt, or requests of other API processes, may take its steps.
        """
        request = Generate(f"probe-{next(self._numbers)}", prompt="x", sampling=Sampling(max_tokens=1))
        num_chunks, was_up = replica.num_chunks, replica.is_up
        before: object = None
        try:
            async with asyncio.timeout(self._limits.probe_seconds):
                before = await _progress(replica.engine)
                async with contextlib.aclosing(replica.engine.generate(request)) as chunks:
                    async for _ in chunks:
                        pass
        except Overloaded:
            self._works(replica)  # it answers, and its requests wait for their turns
        except EngineUnavailable as error:
            self._give_up(replica, _cause(error))
        except TimeoutError:
            if replica.num_chunks > num_chunks or (was_up and await self._computes(replica, before)):
                self._works(replica)
            else:
                self._give_up(replica, "it generates no token")
        except DomainError:
            log.exception("engine %s refuses the watchdog's request", replica.name)
            self._works(replica)
        else:
            self._works(replica)

    async def _computes(self, replica: _Replica, before: object) -> bool:
        """Whether the engine has computed a step since its progress was `before`, None if it did not say."""
        if before is None:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.probe_seconds):
                return await _progress(replica.engine) not in (None, before)
        return False

    def _give_up(self, replica: _Replica, reason: str) -> None:
        self._lose(replica, reason)
        for wait in list(replica.waits):
            wait.reschedule(_now())

    def _works(self, replica: _Replica) -> None:
        if not replica.is_up:
            log.info("engine %s is up", replica.name)
        replica.is_up, replica.is_doubted, replica.progress_at = True, False, _now()


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _progress(engine: WatchedEngine) -> object:
    """A value that differs from the last one if the engine has computed a step since, for whichever process;
    None if it cannot say.
    """
    try:
        return await engine.progress()
    except DomainError:
        return None


def _concerns_request(error: EngineUnavailable | Overloaded) -> bool:
    """Whether the replica may have failed because of the request. One that is down or full did not see it."""
    return not isinstance(error, EngineUnreachable | Overloaded)


def _cause(error: Exception) -> str:
    """For the log: addresses and folders are left out of messages, which reach the API's clients."""
    return repr(error.__cause__) if error.__cause__ is not None else str(error)


def _none_left() -> EngineUnavailable:
    return EngineUnavailable.because("no engine is up")
