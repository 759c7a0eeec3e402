from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import DiskFull, Overloaded, Unavailable
from backend.domain.ids import Hash32
from backend.engine.replicas import ReplicaLimits, Replicas
from backend.engine.routing import LOAD_FACTOR, place, ranked
from backend.ports.engine import EngineState, EngineUnavailable, EngineUnreachable, MalformedMetrics
from inference.protocol import AdapterRef, Chunk, CountTokens, Generate, TokenCount

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from inference.protocol import FinishReason

NAMES = ("a", "b", "c", "d")


class FakeEngine:
    """Answers with two chunks; it can hold back the second, be down, overloaded, or hang."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.served: list[str] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error: Exception | None = None
        self.state_error: Exception | None = None
        self.error_after_first: Exception | None = None
        self.hangs = False
        self.finish_reason: FinishReason = "stop"
        self.weight_format: str | None = "int8"
        self.aborted: list[str] = []
        self.refused = asyncio.Event()
        self.fails_at: str | None = None
        """Text in the prompts at which it fails."""
        self.has_failed = False
        self.num_counts = 0
        self.probed = asyncio.Event()
        self.num_steps = 0
        self.computes = False
        self.steps_hang = False

    async def count_tokens(self, *_: Any) -> TokenCount:
        self.num_counts += 1
        if self.error is not None:
            raise self.error
        return TokenCount("", 1, 10)

    async def generate(self, request: Generate) -> AsyncIterator[Chunk]:
        if self.error is not None:
            self.refused.set()
            raise self.error
        if request.request_id.startswith("probe"):
            self.probed.set()
        if self.fails_at is not None and self.fails_at in (request.prompt or ""):
            self.has_failed = True
            raise EngineUnavailable("it failed at this prompt")
        if self.hangs:
            await asyncio.Event().wait()
        self.served.append(request.request_id)
        yield Chunk(request.request_id, self.name, [1], 1, 1)
        if self.error_after_first is not None:
            raise self.error_after_first
        await self.may_end.wait()
        yield Chunk(request.request_id, "", [], 1, 1, self.finish_reason)

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    async def state(self) -> EngineState:
        if self.state_error is not None:
            raise self.state_error
        return EngineState(frozenset({Hash32(f"0x{self.name}")}), ord(self.name), self.weight_format)

    async def progress(self) -> int:
        if self.steps_hang:
            await asyncio.Event().wait()
        self.num_steps += self.computes
        return self.num_steps

    async def metrics(self, _: float) -> str:
        if self.error is not None:
            raise self.error
        return f'# HELP n It.\n# TYPE n gauge\nn{{kind="k"}} {ord(self.name)}\n'


def adapter(number: int) -> AdapterRef:
    return AdapterRef(f"{number:064x}", "/nowhere")


async def until(is_met: Callable[[], bool]) -> None:
    """Wait for the watchdog."""
    for _ in range(1500):
        if is_met():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the watchdog did not act")


async def text(replicas: Replicas, request: Generate) -> str:
    return "".join([chunk.text async for chunk in replicas.generate(request)])


def run(
    test: Callable[[Replicas, dict[str, FakeEngine]], Coroutine[Any, Any, None]],
    limits: ReplicaLimits | None = None,
    drained: set[str] | None = None,
) -> None:
    async def main() -> None:
        engines = {name: FakeEngine(name) for name in NAMES}
        replicas = Replicas(engines, lambda: drained or (), limits or ReplicaLimits())
        try:
            async with asyncio.timeout(20):
                await test(replicas, engines)
        finally:
            await replicas.close()

    asyncio.run(main())


def test_keys_keep_their_replica_when_another_one_leaves() -> None:
    keys = [str(number) for number in range(400)]
    before = {key: ranked(key, NAMES)[0] for key in keys}
    after = {key: ranked(key, NAMES[:-1])[0] for key in keys}
    assert all(after[key] == before[key] for key in keys if before[key] != NAMES[-1])
    counts = [list(before.values()).count(name) for name in NAMES]
    assert max(counts) < 1.3 * min(counts)


def test_no_replica_gets_more_than_the_load_factor_allows() -> None:
    loads = dict.fromkeys(NAMES, 0)
    for number in range(400):
        loads[place(ranked("hot", NAMES), loads)] += 1
        assert max(loads.values()) <= LOAD_FACTOR * (number + 1) / len(NAMES) + 1
    assert min(loads.values()) > 0


def test_an_adapter_stays_with_its_replica_and_others_spread() -> None:
    async def test(replicas: Replicas, _: dict[str, FakeEngine]) -> None:
        names = [
            await text(replicas, Generate(str(i), prompt="x", adapter=adapter(i % 20))) for i in range(60)
        ]
        assert names[:20] == names[20:40] == names[40:]
        assert set(names) == set(NAMES)

    run(test)


def test_a_hot_adapter_uses_several_replicas_at_once() -> None:
    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        for engine in engines.values():
            engine.may_end.clear()
        tasks = [
            asyncio.create_task(text(replicas, Generate(str(i), prompt="x", adapter=adapter(1))))
            for i in range(16)
        ]
        await asyncio.sleep(0.05)
        assert max(len(engine.served) for engine in engines.values()) <= LOAD_FACTOR * 16 / len(NAMES) + 1
        for engine in engines.values():
            engine.may_end.set()
        await asyncio.gather(*tasks)

    run(test)


def test_a_replica_that_is_down_costs_no_request_that_it_has_not_begun() -> None:
    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        engines["a"].error = EngineUnreachable("down")
        for i in range(20):
            assert await text(replicas, Generate(str(i), prompt="x", adapter=adapter(i))) != "a"
        assert (await replicas.count_tokens(CountTokens("", prompt="x"))).num_tokens == 1
        engines["a"].error = None
        await until(lambda: all(each.is_up for each in replicas._replicas))
        names = {await text(replicas, Generate(str(i), prompt="x", adapter=adapter(i))) for i in range(20)}
        assert "a" in names

    run(test)


def test_an_answer_that_has_begun_fails_with_its_replica() -> None:
    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        for engine in engines.values():
            engine.error_after_first = EngineUnavailable("it ended during this request")
        with pytest.raises(Unavailable, match="ended during"):
            await text(replicas, Generate("r", prompt="x"))

    run(test)


def test_a_full_replica_is_still_up_and_the_next_one_serves() -> None:
    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        first = await text(replicas, Generate("1", prompt="x", adapter=adapter(1)))
        engines[first].error = Overloaded("full")
        assert await text(replicas, Generate("2", prompt="x", adapter=adapter(1))) != first
        engines[first].error = None
        assert await text(replicas, Generate("3", prompt="x", adapter=adapter(1))) == first
        for engine in engines.values():
            engine.error = Overloaded("full")
        with pytest.raises(Overloaded):
            await text(replicas, Generate("4", prompt="x"))
        for engine in engines.values():
            engine.error = EngineUnreachable("down")
        with pytest.raises(Unavailable, match="down"):
            await text(replicas, Generate("5", prompt="x"))
        with pytest.raises(Unavailable, match="no engine is up"):
            await text(replicas, Generate("6", prompt="x"))

    run(test)


def test_a_request_that_fails_everywhere_reaches_two_replicas_and_takes_none_down() -> None:
    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        for engine in engines.values():
            engine.fails_at = "bad"
        with pytest.raises(Unavailable, match="failed at this prompt"):
            await text(replicas, Generate("1", prompt="bad"))
        failed = [name for name, engine in engines.items() if engine.has_failed]
        assert len(failed) == 2
        assert all(each.is_up for each in replicas._replicas)
        for name in failed:
            await engines[name].probed.wait()
        await until(lambda: not any(each.is_doubted for each in replicas._replicas))
        assert all(each.is_up for each in replicas._replicas)
        assert await text(replicas, Generate("2", prompt="x")) in NAMES

    run(test)


def test_a_replica_that_fails_at_each_request_is_down() -> None:
    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        engines["a"].fails_at = ""
        for i in range(20):
            assert await text(replicas, Generate(str(i), prompt="x", adapter=adapter(i))) != "a"
        await until(lambda: [each.name for each in replicas._replicas if not each.is_up] == ["a"])
        engines["a"].fails_at = None
        await until(lambda: all(each.is_up for each in replicas._replicas))

    run(test)


def test_replicas_that_are_down_or_full_do_not_count_as_failed_at_the_request() -> None:
    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        *unavailable, last = NAMES
        errors = itertools.cycle([EngineUnreachable("down"), Overloaded("full")])
        for name in unavailable:
            engines[name].error = next(errors)
        assert await text(replicas, Generate("1", prompt="x")) == last

    run(test)


def test_an_error_that_says_nothing_about_the_engine_is_raised_at_once() -> None:
    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        for engine in engines.values():
            engine.error = DiskFull("no space for the adapter")
        with pytest.raises(DiskFull):
            await text(replicas, Generate("1", prompt="x"))
        assert [engine.refused.is_set() for engine in engines.values()].count(True) == 1
        assert not any(each.is_doubted for each in replicas._replicas)

    run(test)


@pytest.mark.parametrize(("finish_reason", "is_up"), [("stop", True), ("abort", False)])
def test_a_doubted_replica_stays_up_while_other_answers_get_tokens(
    finish_reason: FinishReason, is_up: bool
) -> None:
    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        engine, replica = engines["a"], replicas._replicas[0]
        engine.may_end.clear()
        engine.finish_reason, engine.fails_at = finish_reason, "bad"
        chunks = replicas.generate(Generate("1", prompt="x"))
        await anext(chunks)
        engine.hangs = True  # for requests that begin now: the queue is long
        with pytest.raises(EngineUnavailable):
            await text(replicas, Generate("2", prompt="bad"))
        await engine.probed.wait()
        engine.may_end.set()
        assert (await anext(chunks)).finish_reason == finish_reason
        await until(lambda: not replica.is_up or not replica.is_doubted)
        assert replica.is_up == is_up

    run(test, ReplicaLimits(probe_seconds=0.5), drained=set(NAMES[1:]))


def test_prompts_are_counted_by_the_next_replica_or_the_last_error_is_raised() -> None:
    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        engines["a"].error = EngineUnavailable("no answer in 30 s")
        assert (await replicas.count_tokens(CountTokens("", prompt="x"))).num_tokens == 1
        for engine in engines.values():
            engine.error, engine.num_counts = EngineUnavailable("it ended"), 0
        with pytest.raises(Unavailable, match="it ended"):
            await replicas.count_tokens(CountTokens("", prompt="x"))
        assert sum(engine.num_counts for engine in engines.values()) == 2
        for engine in engines.values():
            engine.error = Overloaded("full")
        with pytest.raises(Overloaded):
            await replicas.count_tokens(CountTokens("", prompt="x"))

    run(test)


def test_a_stalled_replica_that_refuses_the_watchdog_for_its_full_queue_is_up() -> None:
    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        name = await text(replicas, Generate("1", prompt="x", adapter=adapter(1)))
        engines[name].may_end.clear()
        chunks = replicas.generate(Generate("2", prompt="x", adapter=adapter(1)))
        await anext(chunks)
        engines[name].error = Overloaded("full")
        last = asyncio.create_task(anext(chunks))  # type: ignore[arg-type]
        await engines[name].refused.wait()
        await asyncio.sleep(0.05)
        engines[name].may_end.set()
        assert (await last).finish_reason == "stop"

    run(test, ReplicaLimits(stall_seconds=0.1, probe_seconds=5))


def test_a_hung_replica_is_given_up_with_its_requests() -> None:
    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        first = await text(replicas, Generate("1", prompt="x", adapter=adapter(1)))
        engines[first].hangs = True
        # No chunk was sent, so the next replica answers.
        assert await text(replicas, Generate("2", prompt="x", adapter=adapter(1))) != first

    run(test, ReplicaLimits(stall_seconds=0.2, probe_seconds=0.2))


@pytest.mark.parametrize(("computes", "steps_hang"), [(True, False), (True, True), (False, False)])
def test_an_engine_that_computes_is_kept_while_others_have_its_places(
    *, computes: bool, steps_hang: bool
) -> None:
    """Requests of another API process, whose chunks this one does not see, or a long prompt."""

    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        engine, replica = engines["a"], replicas._replicas[0]
        engine.hangs, engine.computes, engine.steps_hang = True, computes, steps_hang
        waiting = asyncio.create_task(text(replicas, Generate("1", prompt="x")))
        await until(lambda: replica.probe is not None)
        await until(lambda: replica.probe is None)
        assert replica.is_up == (computes and not steps_hang)
        replicas._lose(replica, "a test")
        await until(lambda: replica.probe is not None)
        await until(lambda: replica.probe is None)
        assert not replica.is_up  # it gives no token
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    run(
        test,
        ReplicaLimits(stall_seconds=0.1, probe_seconds=0.2),
        drained=set(NAMES[1:]),
    )


def test_a_drained_replica_finishes_its_answers_and_gets_no_new_ones() -> None:
    drained: set[str] = set()

    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        name = await text(replicas, Generate("1", prompt="x", adapter=adapter(1)))
        engines[name].may_end.clear()
        task = asyncio.create_task(text(replicas, Generate("2", prompt="x", adapter=adapter(1))))
        await asyncio.sleep(0.02)
        drained.add(name)
        assert await text(replicas, Generate("3", prompt="x", adapter=adapter(1))) != name
        engines[name].may_end.set()
        assert await task == name

    run(test, drained=drained)


def test_the_state_leaves_out_drained_replicas_and_loses_unreachable_ones() -> None:
    """Else each question about the state would wait until the connection is refused."""

    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        engines["b"].state_error = EngineUnreachable("no route")
        engines["c"].state_error = EngineUnavailable("no answer in 30 s")
        state = await replicas.state()
        assert state.active_adapters == {"0xa"}
        assert [each.is_up for each in replicas._replicas] == [True, False, True, True]
        await until(lambda: all(each.is_up for each in replicas._replicas))

    run(test, drained={"d"})


def test_aborts_metrics_and_adapters() -> None:
    async def test(replicas: Replicas, engines: dict[str, FakeEngine]) -> None:
        for engine in engines.values():
            engine.may_end.clear()
        task = asyncio.create_task(text(replicas, Generate("r", prompt="x")))
        await asyncio.sleep(0.02)
        await replicas.abort("r")
        await replicas.abort("unknown")
        assert [engine.aborted for engine in engines.values() if engine.aborted] == [["r"]]
        for engine in engines.values():
            engine.may_end.set()
        await task
        state = await replicas.state()
        assert state == EngineState(frozenset(f"0x{name}" for name in NAMES), ord("a"), "int8")
        for other in ("bf16", None):
            engines["b"].weight_format = other
            assert (await replicas.state()).weight_format is None
        engines["d"].error = Unavailable("down")
        shown = await replicas.metrics(1.0)
        assert shown.count("# TYPE n gauge") == 1
        assert 'n{kind="k",replica="a"} 97.0' in shown
        assert 'replica="d"' not in shown
        engines["a"].error = MalformedMetrics("line 1")
        assert 'replica="a"' not in await replicas.metrics(1.0)
        for engine in engines.values():
            engine.error = Unavailable("down")
        with pytest.raises(Unavailable):
            await replicas.metrics(1.0)
        engines["b"].error = MalformedMetrics("line 1")
        with pytest.raises(MalformedMetrics):
            await replicas.metrics(1.0)

    run(test)
