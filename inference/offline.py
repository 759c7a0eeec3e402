"""Use of the engine without a server, by the trainer and benchmarks, which load it in their own process.

The engine must be idle. All functions raise the `InferenceError` of the first request that fails, and abort
the rest. `on_step` is called after each step of the engine, with the number of requests that ended in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.outputs import Failure
from inference.protocol import Generate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from inference.config import EngineConfig
    from inference.engine import Engine
    from inference.outputs import Output
    from inference.protocol import AdapterBlend, AdapterRef, Chunk, EmbedItem, ProbeStates, Sampling


def _ignore(_num_done: int) -> None:
    """Default of `on_step`."""


def embed(
    engine: Engine, items: Sequence[EmbedItem], adapter: AdapterRef | AdapterBlend | None = None
) -> list[ProbeStates]:
    """States of prompts and answers, in the order of `items`, as `Generate(probe=True)` returns them."""
    return embed_tokens(engine, [engine.tokenizer.encode_item(item) for item in items], adapter)


def embed_tokens(
    engine: Engine,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    adapter: AdapterRef | AdapterBlend | None = None,
    on_step: Callable[[int], None] = _ignore,
) -> list[ProbeStates]:
    """`embed` for token ids: `pairs` of prompt and answer."""

    def accept(number: int) -> None:
        engine.embed(str(number), *pairs[number], adapter)

    states: dict[int, ProbeStates] = {}
    lengths = [len(prompt) + len(answer) for prompt, answer in pairs]
    for chunks in _run(engine, lengths, accept):
        states |= {number: chunk.probe for number, chunk in chunks if chunk.probe is not None}
        on_step(len(chunks))
    return [states[number] for number in range(len(pairs))]


def generate(
    engine: Engine,
    prompts: Sequence[tuple[Sequence[int], Sampling]],
    adapter: AdapterRef | None = None,
    on_step: Callable[[int], None] = _ignore,
) -> list[list[int]]:
    """Token ids of an answer to each prompt, sampled by its parameters, in the order of `prompts`. An answer
    that ends before its limit has the token that ended it.
    """

    def accept(number: int) -> None:
        token_ids, sampling = prompts[number]
        engine.add(Generate(str(number), adapter=adapter, sampling=sampling), token_ids)

    answers: list[list[int]] = [[] for _ in prompts]
    for chunks in _run(engine, [len(token_ids) for token_ids, _ in prompts], accept):
        for number, chunk in chunks:
            answers[number] += chunk.token_ids
        on_step(sum(chunk.finish_reason is not None for _, chunk in chunks))
    return answers


def _run(
    engine: Engine, lengths: Sequence[int], accept: Callable[[int], None]
) -> Iterator[list[tuple[int, Chunk]]]:
    """The chunks of each step, with the number of the request that `accept` adds under it; `lengths`: of the
    prompts, in tokens.
    """
    for numbers in _batches(lengths, engine.config):
        try:
            for number in numbers:
                accept(number)
            for outputs in engine.steps():
                yield [_chunk(output) for output in outputs]
        finally:
            for number in numbers:
                engine.abort(str(number))


def _chunk(output: Output) -> tuple[int, Chunk]:
    if isinstance(output, Failure):
        raise output.error
    return int(output.request_id), output


def _batches(lengths: Sequence[int], config: EngineConfig) -> Iterator[list[int]]:
    """Divide the numbers of the requests into batches that fit into the waiting queue."""
    numbers: list[int] = []
    num_tokens = 0
    for number, length in enumerate(lengths):
        num_tokens += length
        if numbers and (len(numbers) == config.max_waiting or num_tokens > config.max_waiting_tokens):
            yield numbers
            numbers, num_tokens = [], length
        numbers.append(number)
    if numbers:
        yield numbers
