"""The process's server and its client over a real socket, with a scripted scorer."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import InvalidInput, Unavailable
from backend.engine.gradient_client import GradientClient
from backend.ports.gradients import GradientRequest
from workers.gradients import server as server_module
from workers.gradients.server import GradientServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path


class ScriptedScorer:
    """Scores position 0 by the number of an answer's tokens. Waits until `goes_on`."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, int]] = []
        self.goes_on, self.is_computing = threading.Event(), threading.Event()
        self.goes_on.set()

    def answer(self, request: GradientRequest) -> Any:
        if request.prompt == "refused":
            raise InvalidInput("the template refuses it")
        return request

    def scores(self, folder: Path, answers: Sequence[GradientRequest]) -> list[Mapping[int, float]]:
        self.groups.append((folder.name, len(answers)))
        self.is_computing.set()
        self.goes_on.wait()
        if folder.name == "broken":
            raise InvalidInput("no index")
        if folder.name == "hostile":
            raise NotImplementedError
        if folder.name == "fatal":
            raise MemoryError
        if folder.name == "no number":
            return [{0: float("nan")} for _ in answers]
        return [{0: float(sum(map(len, answer.choices)))} for answer in answers]


@pytest.fixture
def scorer() -> ScriptedScorer:
    return ScriptedScorer()


async def until_served(path: Path) -> None:
    def exists() -> bool:
        return path.exists()

    while not exists():  # noqa: ASYNC110 - the socket is the sign
        await asyncio.sleep(0)


@asynccontextmanager
async def served(scorer: ScriptedScorer, path: Path) -> AsyncIterator[tuple[GradientServer, GradientClient]]:
    server = GradientServer(scorer)  # type: ignore[arg-type]
    task = asyncio.create_task(server.serve(path))
    await until_served(path)
    client = GradientClient(path)
    try:
        yield server, client
    finally:
        scorer.goes_on.set()
        await client.close()
        server.stop()
        await asyncio.gather(task, return_exceptions=True)


def request(
    name: str,
    *folders: str,
    prompt: str = "",
    tokens: int = 1,
    seconds: float = 60,
    is_background: bool = False,
) -> GradientRequest:
    choices = ((7,) * tokens,)
    return GradientRequest(
        name, folders or ("one",), choices, tokens, seconds, prompt=prompt, is_background=is_background
    )


async def test_each_request_gets_the_scores_of_its_folders(scorer: ScriptedScorer, tmp_path: Path) -> None:
    async with served(scorer, tmp_path / "s") as (_, client):
        found = await asyncio.gather(
            client.scores(request("a", tokens=2)), client.scores(request("b", "one", "two", tokens=3))
        )
    assert found == [[{0: 2.0}], [{0: 3.0}, {0: 3.0}]]


async def test_answers_of_one_adapter_are_computed_together(scorer: ScriptedScorer, tmp_path: Path) -> None:
    scorer.goes_on.clear()
    async with served(scorer, tmp_path / "s") as (_, client):
        first = asyncio.create_task(client.scores(request("first", "zero")))
        await asyncio.to_thread(scorer.is_computing.wait)
        rest = [
            asyncio.create_task(client.scores(request(str(number), f"adapter {number % 2}")))
            for number in range(8)
        ]
        await until_waiting(client, 9)
        scorer.goes_on.set()
        await asyncio.gather(first, *rest)
    assert sorted(scorer.groups) == [("adapter 0", 4), ("adapter 1", 4), ("zero", 1)]


async def test_a_group_is_bounded_by_answers_and_by_tokens(
    scorer: ScriptedScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_GROUP", 3)
    monkeypatch.setattr(server_module, "MAX_GROUP_TOKENS", 10)
    scorer.goes_on.clear()
    async with served(scorer, tmp_path / "s") as (_, client):
        first = asyncio.create_task(client.scores(request("first", "zero")))
        await asyncio.to_thread(scorer.is_computing.wait)
        rest = [
            asyncio.create_task(client.scores(request(str(number), tokens=tokens)))
            for number, tokens in enumerate((99, 6, 4, 1, 1, 1, 1))
        ]
        await until_waiting(client, 8)
        scorer.goes_on.set()
        await asyncio.gather(first, *rest)
    assert [count for _, count in scorer.groups] == [1, 1, 2, 3, 1]


async def test_answers_in_the_background_wait_for_all_others(scorer: ScriptedScorer, tmp_path: Path) -> None:
    scorer.goes_on.clear()
    async with served(scorer, tmp_path / "s") as (_, client):
        first = asyncio.create_task(client.scores(request("first", "zero")))
        await asyncio.to_thread(scorer.is_computing.wait)
        rest = [
            asyncio.create_task(client.scores(request(str(number), "one", is_background=number < 2)))
            for number in range(4)
        ]
        await until_waiting(client, 5)
        later = asyncio.create_task(client.scores(request("later", "two")))
        await until_waiting(client, 6)
        scorer.goes_on.set()
        await asyncio.gather(first, *rest, later)
    assert scorer.groups == [("zero", 1), ("one", 2), ("two", 1), ("one", 2)]


async def until_waiting(client: GradientClient, count: int) -> None:
    """Until the client has sent `count` requests and the server has read them."""
    while len(client._results) < count:  # noqa: ASYNC110
        await asyncio.sleep(0)
    for _ in range(100):  # turns of the loop, which both ends share
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("folder", "prompt"), [("broken", ""), ("hostile", ""), ("no number", ""), ("one", "refused")]
)
async def test_an_answer_that_cannot_be_scored_fails_alone(
    scorer: ScriptedScorer, tmp_path: Path, folder: str, prompt: str
) -> None:
    async with served(scorer, tmp_path / "s") as (_, client):
        found = await asyncio.gather(
            client.scores(request("bad", folder, prompt=prompt)),
            client.scores(request("good")),
            return_exceptions=True,
        )
    assert isinstance(found[0], Unavailable)
    assert found[1] == [{0: 1.0}]


async def test_a_full_queue_refuses(
    scorer: ScriptedScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_WAITING", 1)
    scorer.goes_on.clear()
    async with served(scorer, tmp_path / "s") as (_, client):
        computed = asyncio.create_task(client.scores(request("computed")))
        await asyncio.to_thread(scorer.is_computing.wait)
        waiting = asyncio.create_task(client.scores(request("waiting")))
        await until_waiting(client, 2)
        with pytest.raises(Unavailable, match="wait already"):
            await client.scores(request("refused"))
        scorer.goes_on.set()
        await asyncio.gather(computed, waiting)


async def test_a_result_that_comes_too_late_is_not_computed(scorer: ScriptedScorer, tmp_path: Path) -> None:
    async with served(scorer, tmp_path / "s") as (_, client):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.scores(request("late", seconds=0))
    assert scorer.groups == []


async def test_a_process_that_dies_fails_what_waits_and_is_found_again(
    scorer: ScriptedScorer, tmp_path: Path
) -> None:
    async with served(scorer, tmp_path / "s") as (_, client):
        with pytest.raises(Unavailable):
            await client.scores(request("fatal", "fatal"))
        with pytest.raises(Unavailable):
            await client.scores(request("gone"))
        again = GradientServer(scorer)  # type: ignore[arg-type]
        task = asyncio.create_task(again.serve(tmp_path / "s"))
        await until_served(tmp_path / "s")
        assert await client.scores(request("back")) == [{0: 1.0}]
        again.stop()
        await task


async def test_nothing_is_asked_where_no_process_runs(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nothing answers"):
        await GradientClient(tmp_path / "nothing").scores(request("a"))


async def test_a_closed_client_fails_what_waits(scorer: ScriptedScorer, tmp_path: Path) -> None:
    scorer.goes_on.clear()
    async with served(scorer, tmp_path / "s") as (_, client):
        waiting = asyncio.create_task(client.scores(request("a")))
        await asyncio.to_thread(scorer.is_computing.wait)
        await client.close()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await client.scores(request("b"))
