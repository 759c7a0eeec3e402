"""vLLM as the engine, started and chosen by the commands of docs/vllm.md: parity with PEFT, and the demo."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from backend.chain.local_node import ROOT
from backend.cli.operator.demo import command
from backend.cli.operator.demo.scenario import Scenario
from backend.cli.operator.demo.screen import Screen
from backend.cli.operator.demo.stack import DemoStack
from backend.domain.attribution import DISTILLED_ERROR_METHOD, ERROR_METHOD
from backend.domain.errors import InvalidInput
from backend.engine.vllm import VllmEngine
from backend.engine.vllm_adapters import ServedBase, VllmAdapters
from backend.engine.vllm_answer import read_answer_parts
from backend.installation.installation import Installation
from backend.settings import Settings
from inference.model.base_model import base_model_digest
from inference.model.sources import resolve_model
from inference.protocol import AdapterBlend, AdapterRef, Generate, JsonSchema, Sampling
from tests.fixtures_engine import Oracle, make_model
from tests.support.parity import KINDS, blend, make_kinds
from tests.support.vllm_server import POINT, page_settings, vllm_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference.protocol import Chunk
    from tests.fixtures_engine import AnyAdapter

pytestmark = [pytest.mark.deep, pytest.mark.timeout(3600)]
SERVED = [name for name in KINDS if "dora" not in name]
REFUSED = [name for name in KINDS if "dora" in name]
LETTERS = "abcdefghijklmnopqrstuvwxyz 0123456789"


class Server:
    """A server with a tiny random model in fp32, and the engine that uses it."""

    def __init__(self, model: Path, url: str, adapters: VllmAdapters, kinds: dict[str, AdapterRef]) -> None:
        self.model, self.url, self.adapters, self.kinds = model, url, adapters, kinds
        self.oracle = Oracle(model)

    def run(self, *requests: Generate) -> list[list[Chunk]]:
        """Answers to concurrent requests."""

        async def main() -> list[list[Chunk]]:
            engine = VllmEngine(self.url, self.adapters, read_answer_parts(self.model))
            try:
                return await asyncio.gather(*(_read(engine, request) for request in requests))
            finally:
                await engine.close()

        return asyncio.run(main())

    def token_ids(self, text: str) -> list[int]:
        from transformers import AutoTokenizer

        found: list[int] = AutoTokenizer.from_pretrained(self.model)(text)["input_ids"]
        return found


async def _read(engine: VllmEngine, request: Generate) -> list[Chunk]:
    return [chunk async for chunk in engine.generate(request)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("vllm")
    # vLLM's attention for processors has no kernel for heads of 16.
    model = make_model(folder / "model", head_dim=32)
    base = ServedBase(model, base_model_digest(model), "float32", 64)
    adapters = VllmAdapters(base, folder / "adapters", lambda: None)
    with vllm_server(model, folder / "adapters", "float32", folder / "vllm.log") as variables:
        url = f"http://127.0.0.1:{variables['PORT']}"
        yield Server(model, url, adapters, make_kinds(folder / "kinds", model))
    adapters.close()


def request(number: int, text: str, adapter: AnyAdapter, **fields: Any) -> Generate:
    sampling = fields.pop("sampling", Sampling(max_tokens=12, temperature=0.0, ignore_eos=True))
    kind = "blend" if isinstance(adapter, AdapterBlend) else "adapter"
    return Generate(f"r{number}", prompt=text, sampling=sampling, **{kind: adapter}, **fields)


def test_every_kind_of_adapter_and_blends_equal_peft(server: Server) -> None:
    """All in one batch, twice: the second time from vLLM's memory and prefix cache."""
    dice = random.Random(0)
    kinds = server.kinds
    blends = [
        blend((kinds["plain"], 0.5), (kinds["rslora"], 0.5)),
        blend((kinds["rank pattern"], -0.7), (kinds["keys alone"], 1.9), (kinds["one layer"], 0.25)),
    ]
    adapters: list[AnyAdapter] = [None, *(kinds[name] for name in SERVED), *blends]
    texts = ["".join(dice.choices(LETTERS, k=5 + 3 * number)) for number in range(len(adapters))]
    for _ in range(2):
        answers = server.run(
            *(
                request(n, text, adapter)
                for n, (text, adapter) in enumerate(zip(texts, adapters, strict=True))
            )
        )
        for text, adapter, chunks in zip(texts, adapters, answers, strict=True):
            tokens = [token for chunk in chunks for token in chunk.token_ids]
            assert len(tokens) == 12
            assert chunks[-1].finish_reason == "length"
            assert chunks[-1].completion_tokens == 12
            assert chunks[-1].prompt_tokens == len(server.token_ids(text))
            server.oracle.check_greedy(server.token_ids(text), tokens, adapter)


@pytest.mark.parametrize("name", REFUSED)
def test_dora_is_refused_by_name(name: str, server: Server) -> None:
    with pytest.raises(InvalidInput, match="DoRA") as caught:
        server.run(request(0, "x", server.kinds[name]))
    assert caught.value.details["code"] == "adapter_unsupported"


def test_the_error_vector_is_that_of_the_gradient(server: Server) -> None:
    sampling = Sampling(max_tokens=40, temperature=1.0, seed=5, ignore_eos=True)
    adapter = server.kinds["plain"]
    (chunks,) = server.run(
        request(0, "some prompt", adapter, sampling=sampling, probe=True, probe_error=True)
    )
    prompt = server.token_ids("some prompt")
    tokens = [token for chunk in chunks for token in chunk.token_ids]
    states = chunks[-1].probe
    assert states is not None
    assert states.answer is None
    expected = server.oracle.error([*prompt, *tokens], len(prompt), adapter)
    cosine = torch.nn.functional.cosine_similarity(torch.tensor(states.error), expected, dim=0)
    assert cosine > 0.9999


def test_a_seed_repeats_and_prefixes_are_the_payers_own(server: Server) -> None:
    sampling = Sampling(max_tokens=8, temperature=1.0, seed=7, ignore_eos=True)
    text = "a long prompt that fills blocks of the cache; " * 8

    def answer(payer: str) -> tuple[list[int], int]:
        (chunks,) = server.run(request(0, text, None, sampling=sampling, payer=payer))
        return [token for chunk in chunks for token in chunk.token_ids], chunks[-1].cached_prompt_tokens

    first, again, other = answer("one"), answer("one"), answer("two")
    assert first[0] == again[0] == other[0]
    assert (first[1], other[1]) == (0, 0)
    assert again[1] > 0


def test_a_schema_binds_the_answer(server: Server) -> None:
    schema = JsonSchema('{"enum": ["red", "green"]}')
    (chunks,) = server.run(request(0, "x", None, sampling=Sampling(max_tokens=40, constraint=schema)))
    assert "".join(chunk.text for chunk in chunks) in ('"red"', '"green"')
    assert chunks[-1].finish_reason == "stop"


def test_an_abort_ends_the_request_in_the_server(server: Server) -> None:
    async def main() -> tuple[Chunk, str]:
        engine = VllmEngine(server.url, server.adapters, read_answer_parts(server.model))
        long = request(0, "x", None, sampling=Sampling(max_tokens=450, ignore_eos=True))
        last = None
        async for chunk in engine.generate(long):
            last = chunk
            await engine.abort(long.request_id)
        for _ in range(100):
            metrics = await engine.metrics(30.0)
            if 'vllm:num_requests_running{engine="0",model_name="base"} 0.0' in metrics:
                break
            await asyncio.sleep(0.1)
        await engine.close()
        assert last is not None
        return last, metrics

    last, metrics = asyncio.run(main())
    assert last.finish_reason == "abort"
    assert last.completion_tokens < 450
    assert 'vllm:num_requests_running{engine="0",model_name="base"} 0.0' in metrics


def test_an_answer_is_progress_and_a_question_for_it_is_none(server: Server) -> None:
    async def main() -> list[object]:
        engine = VllmEngine(server.url, server.adapters, read_answer_parts(server.model))
        found = [await engine.progress(), await engine.progress()]
        await _read(engine, request(0, "x", None))
        found.append(await engine.progress())
        await engine.close()
        return found

    first, second, third = asyncio.run(main())
    assert first
    assert first == second != third


def test_the_value_loop_runs_on_vllm_by_settings_alone(tmp_path: Path) -> None:
    cache = os.environ.get("LORALEDGER_MODEL_CACHE", str(ROOT / ".loraledger" / "cache" / "models"))
    model = resolve_model("", Path(cache))
    home = tmp_path / "home"
    with ExitStack() as parts:
        variables = parts.enter_context(
            vllm_server(model, tmp_path / "adapters", "bfloat16", tmp_path / "vllm.log")
        )
        environment = {
            **page_settings(POINT, variables),
            "LORALEDGER_MODEL_CACHE": cache,
            "LORALEDGER_BATCH_SECONDS": "3",
        }
        facts = parts.enter_context(DemoStack(home, environment, keep=False))
        assert "engine" not in facts["processes"]
        installation = Installation(Settings(home=home, rpc_url=facts["rpc"]))
        parts.callback(installation.close)
        screen = Screen(command.NUM_STEPS)
        scenario = Scenario(facts, installation, screen, max_rows=16)
        parts.callback(scenario.close)
        result = command._report(scenario, command._run(scenario, screen), screen)
        assert result["ok"], result
        with installation.database.engine.connect() as rows:
            methods = {row[0] for row in rows.exec_driver_sql("SELECT DISTINCT method FROM receipts")}
        assert methods & {DISTILLED_ERROR_METHOD, ERROR_METHOD}, methods
        assert any((tmp_path / "adapters").iterdir())
        _check_page(home, environment, facts)


def _check_page(home: Path, environment: dict[str, str], facts: dict[str, Any]) -> None:
    """The page's own check of the settings."""
    done = subprocess.run(
        [sys.executable, "-m", "backend.cli.main", "doctor"],
        env=os.environ | environment | {"LORALEDGER_HOME": str(home), "LORALEDGER_RPC_URL": facts["rpc"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "engine" in done.stdout + done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
