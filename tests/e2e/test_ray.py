"""Two vLLM servers on Ray Serve, started by the commands of docs/ray.md, behind the market's router."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from transformers import AutoTokenizer

from backend.chain.local_node import ROOT
from backend.domain.errors import Unavailable
from backend.engine.replicas import Replicas
from backend.engine.routing import ranked
from backend.engine.vllm import VllmEngine
from backend.engine.vllm_adapters import ServedBase, VllmAdapters
from backend.engine.vllm_answer import read_answer_parts
from backend.loopback import free_port
from backend.settings import Settings
from benchmarks.peers import PEERS
from inference.model.base_model import base_model_digest
from inference.protocol import Generate, Sampling
from tests.fixtures_engine import Oracle, make_model
from tests.support.parity import KINDS, make_kinds
from tests.support.vllm_server import ENVIRONMENT, page_commands, page_variables, start_script
from tools.chaos.market import children

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from inference.protocol import AdapterRef, Chunk

pytestmark = [pytest.mark.deep, pytest.mark.timeout(3600)]
_INSTALL, START, DEPLOY, POINT, REPLACE, REMOVE = page_commands(ROOT / "docs" / "ray.md")
RAY = PEERS / "ray"
KEPT = [name for name in KINDS if "dora" not in name]
START_SECONDS, END_SECONDS = 900, 60
CLIENTS = 6
PROMPT = "some prompt"


class Cluster:
    """Two servers with a tiny random model in fp32."""

    def __init__(self, folder: Path, model: Path, variables: dict[str, str]) -> None:
        self.folder, self.variables = folder, variables
        self.model, self.oracle = model, Oracle(model)
        self.kinds = make_kinds(folder / "kinds", model, KEPT)
        found = _bash(f'{POINT}echo "$LORALEDGER_ENGINE_URLS"', folder, variables)
        self.urls = list(Settings(engine_urls=found.strip()).served[0].urls)
        base = ServedBase(model, base_model_digest(model), "float32", 64)
        self.adapters = VllmAdapters(base, Path(variables["ADAPTERS"]), lambda: None)

    def type(self, command: str) -> str:
        """What a command of the page prints."""
        script = command.replace("deployments/ray", str(ROOT / "deployments" / "ray"))
        return _bash(script, self.folder, self.variables)

    @asynccontextmanager
    async def replicas(self) -> AsyncIterator[Replicas]:
        parts = read_answer_parts(self.model)
        engines = {url: VllmEngine(url, self.adapters, parts) for url in self.urls}
        replicas = Replicas(engines)
        yield replicas
        await replicas.close()
        for engine in engines.values():
            await engine.close()

    def loaded(self, url: str) -> set[str]:
        """Digests of the adapters in a server's memory."""
        cards = httpx.get(f"{url}/v1/models", timeout=60).json()["data"]
        return {card["id"] for card in cards if card["parent"]}

    def wait(self) -> None:
        """Return once both servers answer."""
        deadline = time.monotonic() + START_SECONDS
        for url in self.urls:
            while not _is_healthy(url):
                assert time.monotonic() < deadline, f"{url} did not start within {START_SECONDS} s"
                time.sleep(1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    assert RAY.exists(), f"Ray is missing: {RAY}; install it by `make ray`"
    folder = tmp_path_factory.mktemp("ray")
    model = make_model(folder / "model", head_dim=32)  # vLLM has no kernel for heads of 16 on processors
    (folder / "vllm.sh").write_text(start_script())
    head, address = free_port(), "127.0.0.1"
    variables = page_variables(model, folder / "adapters", "float32") | {
        **ENVIRONMENT,
        "RAY": str(RAY),
        "ADDRESS": address,
        "PORT": str(free_port()),
        "RAY_ADDRESS": f"{address}:{head}",
    }
    with ExitStack() as parts:
        # Its sockets have paths of at most 107 bytes.
        place = parts.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
        options = f" --block --port {head} --num-cpus 2 --include-dashboard false --temp-dir {place}"
        parts.enter_context(_running(START.rstrip() + options, variables, folder / "ray.log"))
        cluster = Cluster(folder, model, variables)
        assert cluster.type(DEPLOY).split() == cluster.urls
        parts.callback(cluster.adapters.close)
        cluster.wait()
        yield cluster


def _bash(script: str, folder: Path, variables: dict[str, str]) -> str:
    """What commands print."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def _running(script: str, variables: dict[str, str], log: Path) -> Iterator[None]:
    """Ray's head node, from when it has started."""
    command, environment = ["bash", "-euo", "pipefail", "-c", script], os.environ | variables
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(END_SECONDS)


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=60).is_success
    except httpx.HTTPError:
        return False


def request(name: str, adapter: AdapterRef | None, tokens: int = 12) -> Generate:
    sampling = Sampling(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    return Generate(name, prompt=PROMPT, sampling=sampling, adapter=adapter, payer=name)


async def answer(replicas: Replicas, asked: Generate) -> list[Chunk]:
    return [chunk async for chunk in replicas.generate(asked)]


def test_each_adapter_stays_with_its_replica_and_answers_equal_peft(cluster: Cluster) -> None:
    async def main() -> dict[str, list[Chunk]]:
        async with cluster.replicas() as replicas:
            for name, adapter in cluster.kinds.items():
                await answer(replicas, request(name, adapter))
            return {name: await answer(replicas, request(name, each)) for name, each in cluster.kinds.items()}

    answers = asyncio.run(main())
    prompt: list[int] = AutoTokenizer.from_pretrained(cluster.model)(PROMPT)["input_ids"]
    for name, chunks in answers.items():
        tokens = [token for chunk in chunks for token in chunk.token_ids]
        assert len(tokens) == 12
        cluster.oracle.check_greedy(prompt, tokens, cluster.kinds[name])
    for url in cluster.urls:
        digests = {each.digest for each in cluster.kinds.values()}
        own = {digest for digest in digests if ranked(digest, cluster.urls)[0] == url}
        assert own
        assert cluster.loaded(url) == own


def test_an_abort_ends_the_request_in_the_server(cluster: Cluster) -> None:
    async def main() -> tuple[Chunk, str]:
        async with cluster.replicas() as replicas:
            last = None
            async for chunk in replicas.generate(request("long", None, 450)):
                last = chunk
                await replicas.abort("long")
            assert last is not None
            for _ in range(100):
                metrics = await replicas.metrics(30.0)
                if "vllm:num_requests_running" in metrics and _num_running(metrics) == 0:
                    break
                await asyncio.sleep(0.1)
            return last, metrics

    last, metrics = asyncio.run(main())
    assert last.finish_reason == "abort"
    assert last.completion_tokens < 450
    assert _num_running(metrics) == 0


def _num_running(metrics: str) -> float:
    lines = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_running{")]
    assert len(lines) == 2, lines
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.parametrize("part", ["server", "actor"])
def test_a_killed_replica_costs_its_running_requests_alone_and_returns(cluster: Cluster, part: str) -> None:
    processes = _processes(1)
    killed_at, answers, failures = asyncio.run(_ask_while_killed(cluster, processes[part]))
    assert len(failures) <= CLIENTS
    assert all(at < killed_at + 5 for at in failures), (killed_at, failures)
    assert [at for at in answers if at > killed_at + 5]
    cluster.wait()
    deadline = time.monotonic() + END_SECONDS
    while outlived := _group(processes["server"]):
        assert time.monotonic() < deadline, f"parts of the server outlived it: {outlived}"
        time.sleep(0.5)

    async def main() -> None:
        async with cluster.replicas() as replicas:
            for name, adapter in cluster.kinds.items():
                await answer(replicas, request(name, adapter))

    asyncio.run(main())
    assert cluster.loaded(cluster.urls[0])


def test_a_replica_is_replaced_or_removed_while_the_other_goes_on(cluster: Cluster) -> None:
    before = [_processes(number) for number in (1, 2)]
    assert cluster.type(DEPLOY).count("runs;") == 2
    assert [_processes(number) for number in (1, 2)] == before
    cluster.type(REPLACE)
    assert _is_healthy(cluster.urls[1])
    assert _processes(1) == before[0]
    assert _processes(2)["server"] != before[1]["server"]
    cluster.type(REMOVE)
    assert not _is_healthy(cluster.urls[1])
    assert _processes(1) == before[0]
    assert _is_healthy(cluster.urls[0])
    with pytest.raises(AssertionError, match="no replica 'replica-2'; there are: replica-1"):
        cluster.type(REMOVE)


async def _ask_while_killed(cluster: Cluster, pid: int) -> tuple[float, list[float], list[float]]:
    """When the process was killed, when answers came, and when requests failed."""
    answers: list[float] = []
    failures: list[float] = []
    is_busy = asyncio.Event()
    adapters = list(cluster.kinds.values())

    async def client(number: int) -> None:
        for turn in itertools.count(number):
            try:
                await answer(replicas, request(f"{number}-{turn}", adapters[turn % len(adapters)], 40))
                answers.append(time.monotonic())
            except Unavailable:
                failures.append(time.monotonic())
            if len(answers) > 3 * CLIENTS:
                is_busy.set()

    async with cluster.replicas() as replicas, asyncio.TaskGroup() as group:
        clients = [group.create_task(client(number)) for number in range(CLIENTS)]
        await is_busy.wait()
        os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        await asyncio.sleep(20)
        for task in clients:
            task.cancel()
    return killed_at, answers, failures


def _processes(number: int) -> dict[str, int]:
    """Ids of Ray's process of a replica, and of its server."""
    title = f"ray::ServeReplica:replica-{number}:"
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    (actor,) = (pid for pid in pids if title in _title(pid))
    (server,) = (pid for pid in children(actor) if "vllm.entrypoints" in _title(pid))
    return {"actor": actor, "server": server}


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _group(pid: int) -> list[str]:
    """Names of the running processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, fields = path.read_text().rpartition(")")
            state, _, group = fields.split()[:3]
            if int(group) == pid and state != "Z":
                found.append(name)
    return found
