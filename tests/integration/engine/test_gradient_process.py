"""The gradient stage's process, as it is started: it scores answers, and is found again after its death."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file

from backend.cli.operator.supervisor import Service, Supervisor
from backend.domain.attribution import CHECKPOINT_FILE, GRADIENT_METHOD, INDEX_FILE, INDEX_METADATA
from backend.domain.content import cid_of
from backend.domain.errors import Unavailable
from backend.domain.live_agreement import LiveAgreement
from backend.domain.money import PPM
from backend.engine.gradient_client import GradientClient
from backend.engine.process import EngineProcess
from backend.ports.gradients import GradientRequest
from backend.services.answers import live_agreement
from backend.services.answers.request import AnswerRequest
from backend.services.channels.admission import Payer
from inference.protocol import Generate, Message, Sampling
from tests.fixtures_engine import make_adapter, make_model
from tests.support.market import some_hash
from tests.support.scripted_installation import ScriptedInstallation
from workers.training.sketch import SKETCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backend.db.unit_of_work import Database

POSITIONS = [0, 3, 5]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EngineProcess:
    folder = tmp_path_factory.mktemp("gradients")
    model = make_model(folder / "model", "llama")
    return EngineProcess(folder / "g.sock", str(model), num_threads=1, module="workers.gradients")


@pytest.fixture(scope="module")
def adapter(spec: EngineProcess) -> Path:
    """An adapter whose checkpoint is itself, with an index of random directions."""
    folder = Path(make_adapter(spec.socket_path.parent / "adapter", Path(str(spec.model))).path)
    shutil.copyfile(folder / "adapter_model.safetensors", folder / CHECKPOINT_FILE)
    count, directions = len(POSITIONS), np.random.default_rng(7)
    tensors = {
        "positions": np.array(POSITIONS),
        "rows": np.ones(count, dtype=np.int64),
        "hidden.vectors": np.zeros((count, 4), dtype=np.float32),
        "hidden.centre": np.zeros(4, dtype=np.float32),
        "error.vectors": np.zeros((count, 4), dtype=np.float32),
        "gradient.vectors": directions.normal(size=(count, SKETCH_SIZE)).astype(np.float32),
    }
    save_file(tensors, folder / INDEX_FILE, INDEX_METADATA | {"methods": GRADIENT_METHOD})
    return folder


@pytest.fixture(scope="module")
def supervisor(spec: EngineProcess) -> Iterator[Supervisor]:
    with Supervisor(spec.socket_path.parent / "logs") as running:
        service = Service("gradients", spec.arguments(), spec.environment(), is_ready=spec.socket_path.exists)
        running.start(service)
        yield running
    assert not spec.socket_path.exists()


def request(adapter: Path, number: str = "0x1") -> GradientRequest:
    folders, messages = (str(adapter),), (Message("user", "What is a process?"),)
    return GradientRequest(number, folders, ((5, 6, 7),), 20, seconds=60, messages=messages)


@pytest.mark.usefixtures("supervisor")
async def test_the_process_scores_an_answer(spec: EngineProcess, adapter: Path) -> None:
    client = GradientClient(spec.socket_path)
    found = await asyncio.gather(
        client.scores(request(adapter)),
        client.scores(request(adapter.parent / "missing", "0x2")),
        return_exceptions=True,
    )
    await client.close()
    assert isinstance(found[1], Unavailable)
    assert not isinstance(found[0], BaseException)
    (scores,) = found[0]
    assert list(scores) == POSITIONS
    assert all(np.isfinite(list(scores.values())))
    assert len(set(scores.values())) == len(POSITIONS)


@pytest.mark.usefixtures("supervisor")
async def test_the_process_measures_a_served_answer(
    spec: EngineProcess,
    adapter: Path,
    tmp_path: Path,
    sqlite_database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_agreement, "POLL_SECONDS", 0.01)
    built = ScriptedInstallation(tmp_path, sqlite_database)
    built.store.folders[cid_of(some_hash("folder"))] = lambda to: shutil.copytree(
        adapter, to, dirs_exist_ok=True
    )
    built.fund(1000)
    sampling = built.sampling(PPM, GradientClient(spec.socket_path))
    async with sampling.running():
        while served_until(built) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        generate = built.generating(60, live_agreements=sampling)
        message = Generate("", (Message("user", "hello"),), sampling=Sampling(max_tokens=4))
        model = built.catalogue.resolve(built.version)
        answer = await generate.start(AnswerRequest(Payer(built.payer.account), model, message, b"{}"))
        await answer.ended()
        built.clock.pass_seconds(1)
        built.view.mine()
        built.clock.pass_seconds(live_agreement.COMMITTED_SECONDS)
        while (found := figures(built)).num_missing or not found.num_sampled:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    # Without a probe the shares are equal, and the gradient ranks the contributions 0 and 3.
    assert found == LiveAgreement(1, 1, 0, 0)


def served_until(built: ScriptedInstallation) -> int | None:
    with built.read() as tx:
        return tx.live_agreements.served_until()


def figures(built: ScriptedInstallation) -> LiveAgreement:
    with built.read() as tx:
        return tx.live_agreements.total()


async def test_a_killed_process_is_started_again_and_found(
    supervisor: Supervisor, spec: EngineProcess, adapter: Path
) -> None:
    client = GradientClient(spec.socket_path)
    before = await client.scores(request(adapter))
    first_pid = supervisor.pids()["gradients"]
    os.kill(first_pid, signal.SIGKILL)
    while await scores_or_none(client, adapter) is not None:
        pass  # until the kernel has closed the socket
    while supervisor.pids()["gradients"] == first_pid:
        supervisor.watch_once()  # in this thread: a child dies with the thread that started it
    while (again := await scores_or_none(client, adapter)) is None:
        supervisor.watch_once()  # in this thread: a child dies with the thread that started it
    assert again == before
    await client.close()


async def scores_or_none(client: GradientClient, adapter: Path) -> Sequence[Mapping[int, float]] | None:
    """None while no process serves."""
    try:
        return await client.scores(request(adapter, "0x3"))
    except Unavailable:
        return None
