"""The engine without a server: for the trainer and for benchmarks, which have a process of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.engine import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.engine import Engine
    from inference.protocol import AdapterRef, EmbedItem, ProbeStates


def embed(engine: Engine, items: Sequence[EmbedItem], adapter: AdapterRef | None = None) -> list[ProbeStates]:
    """States of prompts and answers, in the order of `items`, as `Generate(probe=True)` returns them.

    The engine must be idle. Raises the `InferenceError` of the first item that fails; the rest is aborted.
    """
    states: dict[str, ProbeStates] = {}
    for start in range(0, len(items), engine.config.max_waiting):
        keys = range(start, min(start + engine.config.max_waiting, len(items)))
        try:
            for key in keys:
                engine.embed(str(key), *engine.tokenizer.encode_item(items[key]), adapter)
            for output in engine.run():
                if isinstance(output, Failure):
                    raise output.error
                if output.probe is not None:
                    states[output.request_id] = output.probe
        finally:
            for key in keys:
                engine.abort(str(key))
    return [states[str(key)] for key in range(len(items))]
