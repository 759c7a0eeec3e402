"""A training process reports that it is alive more often than large models and long rows take for a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoTokenizer

from backend.domain.training import TrainingConfig
from inference.config import EngineConfig
from inference.engine import Engine
from tests.fixtures_engine import make_adapter, peft_warnings_ignored
from tests.unit.workers.support import letter_rows
from workers.training.answers import Answer, Prompt, sample_answers
from workers.training.draws import check_draws
from workers.training.evaluate import mean_loss
from workers.training.fit import fit, lora_model
from workers.training.gradients import row_gradients
from workers.training.index import answer_states
from workers.training.rows import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from inference.outputs import Output
    from inference.protocol import AdapterRef
    from workers.training.progress import Emit
    from workers.training.rows import Example

NUM_LAYERS = 2


@pytest.fixture
def examples(tiny_base: Path) -> list[Example]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    return [encode(contribution, row, tokenizer, 192, "all") for contribution, row in letter_rows(4)]


@pytest.fixture
def model(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("workers.training.fit.compute_dtype", lambda: torch.float32)
    with peft_warnings_ignored():
        return lora_model(tiny_base, TrainingConfig())


class Signs:
    """The events of a process, and the units of work that went by without one."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.done: list[int] = []
        self.longest_silence = self._silence = 0

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        self._silence = 0
        self.kinds.append(kind)
        if kind == "working":
            self.done.append(data["done"])

    def work(self, *_: Any) -> None:
        self._silence += 1
        self.longest_silence = max(self.longest_silence, self._silence)


@pytest.fixture
def signs(monkeypatch: pytest.MonkeyPatch) -> Signs:
    monkeypatch.setattr("workers.training.progress.INTERVAL_SECONDS", 0.0)
    return Signs()


def watch_layers(model: Any, signs: Signs) -> None:
    """Count the passes through a layer, forward and backward."""

    def forward(_layer: Any, _inputs: Any, output: Any) -> None:
        signs.work()
        if output.requires_grad:
            output.register_hook(signs.work)

    layers = model.get_base_model().base_model.layers
    assert len(layers) == NUM_LAYERS
    for layer in layers:
        layer.register_forward_hook(forward)


def test_an_optimizer_step_gives_one_after_each_layer_of_each_micro_batch(
    model: Any, examples: Sequence[Example], signs: Signs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step may have 65,536 tokens, which take large base models hours of a processor."""
    monkeypatch.setattr("workers.training.fit.MICRO_BATCH_TOKENS", 1)  # a row at a time
    watch_layers(model, signs)
    fit(model, examples, TrainingConfig(batch_size=4, steps=2, checkpoint_steps=9), tmp_path, signs.emit)
    assert signs.longest_silence == 1
    first, second = signs.kinds.index("progress"), len(signs.kinds) - 1 - signs.kinds[::-1].index("progress")
    assert signs.kinds[:first] == ["working"] * first
    assert second - first > first == 2 * NUM_LAYERS * len(examples)
    assert signs.done == [0] * first + [1] * first  # of two steps


def test_a_short_step_gives_its_progress_alone(
    model: Any, examples: Sequence[Example], tmp_path: Path
) -> None:
    signs = Signs()
    fit(model, examples, TrainingConfig(batch_size=4, steps=2, checkpoint_steps=9), tmp_path, signs.emit)
    assert signs.kinds.count("working") == 0
    assert signs.kinds.count("progress") == 2


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(mean_loss, id="evaluation"),
        pytest.param(lambda model, rows, emit: row_gradients(model, rows, (), emit), id="gradients"),
    ],
)
def test_passes_over_a_batch_of_rows_give_one_after_each_layer(
    model: Any,
    examples: Sequence[Example],
    signs: Signs,
    measure: Callable[[Any, Sequence[Example], Any], object],
) -> None:
    watch_layers(model, signs)
    measure(model, examples, signs.emit)
    assert signs.longest_silence == 1
    assert signs.done[-1] == len(examples)


def test_a_check_of_draws_gives_one_after_each_layer(
    model: Any, signs: Signs, examples: Sequence[Example], tiny_base: Path
) -> None:
    watch_layers(model, signs)
    answers = [
        Answer(Prompt(row.token_ids[:8], 0, is_kept_out=False), row.token_ids[8:12]) for row in examples
    ]
    check_draws(model, answers, (), signs.emit)
    assert signs.longest_silence == 1


def sample(engine: Engine, adapter: AdapterRef, rows: Sequence[Example], emit: Emit) -> object:
    prompts = [Prompt(row.token_ids, number, is_kept_out=False) for number, row in enumerate(rows)]
    return sample_answers(engine, adapter, prompts, emit)


def read_states(engine: Engine, adapter: AdapterRef, rows: Sequence[Example], emit: Emit) -> object:
    return answer_states(engine, adapter, rows, "index", emit)


@pytest.mark.parametrize("use", [sample, read_states])
def test_the_engine_gives_one_after_each_step(
    use: Callable[..., object],
    tiny_base: Path,
    examples: Sequence[Example],
    signs: Signs,
    tmp_path: Path,
) -> None:
    """The first of many requests may end only after many steps."""
    adapter = make_adapter(tmp_path / "adapter", tiny_base)
    engine = Engine(EngineConfig(tiny_base, dtype="float32", num_threads=1, max_step_tokens=16))
    step = engine.step

    def counted() -> list[Output]:
        if not engine.is_stalled:  # else it waited for the adapter to load
            signs.work()
        return step()

    engine.step = counted  # type: ignore[method-assign]
    try:
        use(engine, adapter, examples, signs.emit)
    finally:
        engine.close()
    assert signs.longest_silence == 1
    assert signs.done.count(0) > 1
    assert signs.done[-1] == len(examples)
