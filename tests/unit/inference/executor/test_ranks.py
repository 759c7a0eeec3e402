"""Two processes that compute one model together, against one process and against transformers with PEFT."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from inference.config import EngineConfig
from inference.engine import Engine
from inference.errors import RankLostError, UnsupportedModelError
from inference.executor.leader import FollowerRanks
from inference.protocol import AdapterBlend, BlendPart
from tests.fixtures_engine import Oracle, greedy, make_adapter, make_model, run_all, tiny_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inference.protocol import AdapterRef


@pytest.fixture(scope="module")
def biased_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Biases on every linear layer: those of o and down belong to one summand only."""
    folder = tmp_path_factory.mktemp("biased")
    return make_model(folder, attention_bias=True, mlp_bias=True)


@pytest.fixture(scope="module")
def adapters(biased_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    root = tmp_path_factory.mktemp("adapters")
    return [
        make_adapter(root / "all", biased_model, rank=4, seed=1),
        make_adapter(root / "narrowing", biased_model, rank=7, targets=("o_proj", "down_proj"), seed=2),
        make_adapter(root / "dora", biased_model, rank=3, seed=3, use_dora=True),
        make_adapter(root / "some", biased_model, rank=2, targets=("q_proj", "up_proj"), seed=4),
    ]


@pytest.fixture(scope="module")
def two_ranks(biased_model: Path) -> Iterator[Engine]:
    """Two adapter slots for four adapters, so that they are written and erased all the time."""
    config = tiny_config(
        biased_model, tensor_parallel=2, num_adapter_slots=2, num_adapter_rows=16, max_rank=16
    )
    engine = Engine(config)
    yield engine
    engine.close()


def test_a_mixed_batch_answers_as_transformers_with_peft(
    two_ranks: Engine, biased_model: Path, adapters: list[AdapterRef]
) -> None:
    rng, oracle = random.Random(0), Oracle(biased_model)
    chosen = [None, *adapters, None, *adapters]
    prompts = {str(i): [rng.randrange(5, 260) for _ in range(3 + 5 * i)] for i in range(len(chosen))}
    commands = [greedy(key, adapter=chosen[int(key)]) for key in prompts]
    answers = run_all(two_ranks, *commands, prompts=prompts)
    for key, prompt in prompts.items():
        oracle.check_greedy(prompt, answers[key].token_ids, chosen[int(key)])


def test_a_blend_answers_as_in_one_process(
    two_ranks: Engine,
    biased_model: Path,
    adapters: list[AdapterRef],
    make_engine: Callable[..., Engine],
) -> None:
    blend = AdapterBlend((BlendPart(adapters[0], 0.7), BlendPart(adapters[1], -0.4)))
    command = greedy("x", "Once upon a time", adapter=blend)
    alone = run_all(make_engine(biased_model), command)["x"].token_ids
    assert run_all(two_ranks, command)["x"].token_ids == alone


def test_other_families_and_types_can_be_divided(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "qwen3")
    adapter = make_adapter(tmp_path / "a", model)
    answers = []
    for ranks in (1, 2):
        engine = Engine(tiny_config(model, tensor_parallel=ranks, dtype="bfloat16"))
        engine.embed("e", list(range(20, 60)), [], adapter)
        answers.append(next(iter(engine.run())).probe.prompt)
        engine.close()
    assert answers[1] == pytest.approx(answers[0], abs=0.15)


def test_a_rank_that_dies_ends_the_engine_with_a_clear_error(tiny_llama: Path) -> None:
    engine = Engine(tiny_config(tiny_llama, tensor_parallel=2))
    engine.add(greedy("x", max_tokens=200))
    engine.step()
    os.kill(engine._followers.process_ids[0], signal.SIGKILL)
    with pytest.raises(RankLostError, match="rank"):
        list(engine.run())
    engine.close()


def test_a_rank_that_cannot_load_its_share_is_reported(tmp_path: Path) -> None:
    followers = FollowerRanks(tiny_config(tmp_path / "gone", tensor_parallel=2), 64, 8)
    try:
        followers.connect()
        with pytest.raises(RankLostError, match="rank 1 could not load its share"):
            followers.wait_until_ready()
    finally:
        followers.close()


def test_followers_do_not_outlive_the_leader(tiny_llama: Path) -> None:
    engine = Engine(tiny_config(tiny_llama, tensor_parallel=2))
    (process_id,) = engine._followers.process_ids
    engine.close()
    assert not Path(f"/proc/{process_id}").exists()


def test_a_model_that_cannot_be_divided_evenly_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="num_heads of 4 cannot be divided among 3 ranks"):
        Engine(tiny_config(tiny_llama, tensor_parallel=3))


@pytest.mark.parametrize("other", [{"device": "cuda"}, {"quantization": "int8"}])
def test_tensor_parallelism_is_refused_with_unsupported_options(other: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="on CPUs"):
        EngineConfig(Path("model"), tensor_parallel=2, **other)
