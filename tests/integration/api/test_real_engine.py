"""Answers by a real engine process: token counts are charged, probes attributed, and the engine may crash."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec.structs import replace as replace_fields
from safetensors.numpy import save_file

from backend.domain.attribution import INDEX_FILE, INDEX_METADATA
from backend.domain.content import cid_of
from backend.domain.errors import Unavailable
from backend.domain.hashing import response_bytes, salted_hash, to_bytes
from backend.domain.ids import Hash32
from backend.engine.client import EngineClient
from backend.engine.process import EngineProcess
from backend.installation.verification import _parse_request
from backend.services.answers.attribution import HiddenCosine, Uniform
from backend.services.answers.attribution_index import Indices
from backend.services.answers.billing import Billing
from backend.services.answers.blend import build_blend
from backend.services.answers.generate import Generate, GenerateLimits
from backend.services.answers.request import AnswerRequest
from backend.services.channels.admission import Payer
from backend.services.market.adapter_folders import AdapterFolders, adapter_ref
from backend.services.receipts.reexecution import execution_check, reexecute
from inference import protocol
from inference.protocol import Message, Sampling
from tests.fixtures_engine import make_adapter, make_model
from tests.support.engine import RunningEngine
from tests.support.market import some_hash
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.receipt import SignedReceipt
    from backend.domain.serving import StoredReceipt
    from backend.services.market.catalogue import Model
    from inference.protocol import AdapterRef

HIDDEN = 64
MAX_TOKENS = 400


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama", max_position_embeddings=2048)


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> AdapterRef:
    return make_adapter(tmp_path_factory.mktemp("adapter") / "a", model)


@pytest.fixture(scope="module")
def engine(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    socket_path = tmp_path_factory.mktemp("run") / "engine.sock"
    running = RunningEngine(EngineProcess(socket_path, model, num_threads=1, options={"dtype": "float32"}))
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.end()


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database, adapter: AdapterRef) -> ScriptedInstallation:
    built = ScriptedInstallation(tmp_path, sqlite_database)
    built.fund(10**9)
    record = built.catalogue.resolve(built.version).record
    real = replace(
        record, name="real", adapter_digest=Hash32(f"0x{adapter.digest}"), cid_digest=some_hash("real folder")
    )
    built.version = built.view.register(real)
    built.store.folders[cid_of(real.cid_digest)] = lambda folder: fill(folder, adapter)
    return built


def fill(folder: Path, adapter: AdapterRef) -> None:
    """The adapter, and an index that tells two contributions apart."""
    shutil.copytree(adapter.path, folder, dirs_exist_ok=True)
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "positions": np.array([0, 1], dtype=np.int64),
        "hidden.vectors": np.eye(2, HIDDEN, dtype=np.float32),
        "rows": np.ones(2, dtype=np.int64),
        "hidden.centre": np.zeros(HIDDEN, dtype=np.float32),
        "error.vectors": np.eye(2, HIDDEN, dtype=np.float32),
    }
    save_file(tensors, folder / INDEX_FILE, INDEX_METADATA)


@pytest.fixture
async def generate(
    installation: ScriptedInstallation, engine: RunningEngine, tmp_path: Path
) -> AsyncIterator[Generate]:
    async with EngineClient(engine.socket_path) as client:
        store: Any = installation.store
        made = Generate(
            installation.catalogue,
            AdapterFolders(store, tmp_path / "adapters"),
            {installation.base.digest: client},
            installation.admitting,
            Billing(installation.db, (HiddenCosine(Indices()), Uniform())),
            GenerateLimits(answer_seconds=240),
        )
        yield made
        await made.close()


def request(installation: ScriptedInstallation, max_tokens: int) -> AnswerRequest:
    return AnswerRequest(
        payer=Payer(installation.payer.account),
        model=installation.catalogue.resolve(installation.version),
        message=protocol.Generate(
            "", (Message("user", "hello"),), sampling=Sampling(max_tokens=max_tokens, temperature=0)
        ),
        body=b"{}",
    )


def receipts(installation: ScriptedInstallation) -> list[StoredReceipt]:
    return list(installation.services.receipts.page(installation.payer.account, None, 10))


async def test_what_the_engine_counts_is_charged_and_what_it_probes_is_attributed(
    installation: ScriptedInstallation, generate: Generate
) -> None:
    answer = await generate.start(request(installation, 12))
    text = "".join([chunk.text async for _, chunk in answer.chunks()])
    signed = answer.final.receipt.signed
    assert text
    assert (signed.receipt.prompt_tokens, signed.receipt.completion_tokens) == (8, 12)
    assert signed.receipt.charge == 8 * 10 + 12 * 20
    assert signed.method == "hidden-cosine-1"
    assert sum(share.ppm for share in signed.slices[0].shares) == 1_000_000
    again = await generate.start(request(installation, 12))
    assert "".join([chunk.text async for _, chunk in again.chunks()]) == text
    assert again.final.receipt.signed.slices == signed.slices


async def test_a_blend_is_another_answer_and_pays_both_by_one_method(
    installation: ScriptedInstallation, generate: Generate, model: Path, tmp_path: Path
) -> None:
    other = make_adapter(tmp_path / "other", model, seed=9)
    first = installation.catalogue.resolve(installation.version)
    record = replace(
        first.record, name="other", adapter_digest=Hash32(f"0x{other.digest}"), cid_digest=some_hash("other")
    )
    installation.store.folders[cid_of(record.cid_digest)] = lambda folder: fill(folder, other)
    second = installation.catalogue.resolve(installation.view.register(record))

    async def answered(*weighted: tuple[Model, float]) -> tuple[str, SignedReceipt]:
        base = installation.catalogue.resolve("tiny")
        asked = replace(request(installation, 12), model=base, blend=build_blend(weighted))
        answer = await generate.start(asked)
        text = "".join([chunk.text async for _, chunk in answer.chunks()])
        return text, answer.final.receipt.signed

    alone, _ = await answered((first, 1.0))
    plain = await generate.start(request(installation, 12))
    assert "".join([chunk.text async for _, chunk in plain.chunks()]) == alone
    text, signed = await answered((first, 0.25), (second, 0.75))
    assert text != alone
    assert [part.weight_ppm for part in signed.slices] == [250_000, 750_000]
    assert signed.method == "hidden-cosine-1"
    assert [sum(share.ppm for share in part.shares) for part in signed.slices] == [1_000_000] * 2
    assert signed.receipt.charge == 8 * 10 + 12 * 20


async def test_an_answer_with_tools_is_bound_and_can_be_computed_again(
    installation: ScriptedInstallation, generate: Generate, engine: RunningEngine
) -> None:
    unit = {
        "type": "object",
        "properties": {"unit": {"enum": ["C", "F"]}},
        "required": ["unit"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "warm", "parameters": unit}}
    asked = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
    body = json.dumps(
        asked | {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    ).encode()
    message, _ = _parse_request(body)
    sampling = replace_fields(message.sampling, max_tokens=300)
    made = replace(request(installation, 1), message=replace_fields(message, sampling=sampling), body=body)
    answer = await generate.start(made)
    calls = [call async for _, chunk in answer.chunks() for call in chunk.calls]
    assert calls[0].name == "warm"
    assert json.loads("".join(call.arguments for call in calls))["unit"] in {"C", "F"}
    assert answer.final.finish_reasons == ("tool_calls",)
    receipt = answer.final.receipt
    salt, (text,) = to_bytes(receipt.salt), answer.final.texts
    assert receipt.signed.receipt.response_hash == salted_hash(salt, response_bytes([text]))
    assert receipt.signed.receipt.request_hash == salted_hash(salt, body)
    record = made.model.record
    again = replace_fields(
        message,
        sampling=replace_fields(
            message.sampling, max_tokens=receipt.signed.receipt.completion_tokens, logprobs=20
        ),
        adapter=adapter_ref(record, generate._adapters.folder(record)),
    )
    async with EngineClient(engine.socket_path) as client:
        check = execution_check(text, await reexecute(client, again))
    assert check.is_right, check.message


async def test_hanging_up_charges_exactly_what_the_engine_did(
    installation: ScriptedInstallation, generate: Generate
) -> None:
    answer = await generate.start(request(installation, MAX_TOKENS))
    answer.hang_up()
    await generate.close()
    (stored,) = receipts(installation)
    receipt = stored.signed.receipt
    assert 0 < receipt.completion_tokens <= MAX_TOKENS  # how many depends on who is faster
    assert receipt.charge == 8 * 10 + receipt.completion_tokens * 20
    assert stored.signed.method == "hidden-cosine-1"


async def test_an_engine_that_is_killed_mid_answer_costs_nothing(  # the last test: it stays dead
    installation: ScriptedInstallation, generate: Generate, engine: RunningEngine
) -> None:
    answer = await generate.start(request(installation, MAX_TOKENS))
    engine.process.kill()
    with pytest.raises(Unavailable):
        async for _ in answer.chunks():
            pass
    await generate.close()
    assert receipts(installation) == []
    channel = installation.services.channels.get(installation.payer.account, installation.channel)
    assert (channel.balance.charged, channel.balance.reserved) == (0, 0)
