"""Use of the engine without a server, by the trainer and benchmarks, which load it in their own process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.engine import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from inference.config import EngineConfig
    from inference.engine import Engine
    from inference.protocol import AdapterBlend, AdapterRef, EmbedItem, ProbeStates


def embed(
    engine: Engine, items: Sequence[EmbedItem], adapter: AdapterRef | AdapterBlend | None = None
) -> list[ProbeStates]:
    """States of prompts and answers, in the order of `items`, as `Generate(probe=True)` returns them.

    The engine must be idle. Raises the `InferenceError` of the first item that fails, and aborts the rest.
    """
    encoded = {str(key): engine.tokenizer.encode_item(item) for key, item in enumerate(items)}
    states: dict[str, ProbeStates] = {}
    for keys in _batches(encoded, engine.config):
        try:
            for key in keys:
                engine.embed(key, *encoded[key], adapter)
            for output in engine.run():
                if isinstance(output, Failure):
                    raise output.error
                if output.probe is not None:
                    states[output.request_id] = output.probe
        finally:
            for key in keys:
                engine.abort(key)
    return [states[key] for key in encoded]


def _batches(encoded: Mapping[str, tuple[list[int], list[int]]], config: EngineConfig) -> Iterator[list[str]]:
    """Divide the keys into batches that fit into the waiting queue."""
    keys: list[str] = []
    num_tokens = 0
    for key, (prompt, answer) in encoded.items():
        num_tokens += len(prompt) + len(answer)
        if keys and (len(keys) == config.max_waiting or num_tokens > config.max_waiting_tokens):
            yield keys
            keys, num_tokens = [], len(prompt) + len(answer)
        keys.append(key)
    if keys:
        yield keys
