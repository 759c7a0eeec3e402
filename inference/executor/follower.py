"""Process of a following rank: computes the steps that the leader announces on its standard input.

Started by the leader as `python -m inference.executor.follower`. Ends with its standard input, and so never
outlives the leader.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch

from inference.config import EngineConfig
from inference.errors import InferenceError
from inference.executor.messages import READY, Erase, Forward, Load, Start, Write, read_message, unpack_blend
from inference.executor.runner import load_runner
from inference.kernels.onednn import limit_caches
from inference.kernels.threads import set_num_threads
from inference.lora.arena import AdapterArena
from inference.model.collective import GlooGroup
from inference.model.families import read_architecture
from inference.model.loader import BaseWeights
from inference.model.shards import Shard
from telemetry import logs

if TYPE_CHECKING:
    from inference.executor.runner import Runner

logger = logging.getLogger(__name__)


def main() -> int:
    logs.setup()
    source = sys.stdin.buffer
    start = read_message(source)
    if not isinstance(start, Start):
        return 2  # the leader ended early, or another program started this process
    try:
        config = _config(start)
        group = GlooGroup(Shard(start.rank, config.tensor_parallel), Path(start.rendezvous))
        if not isinstance(read_message(source), Load):
            return 2
        runner, arena = _load(start, config, group)
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        _follow(source, runner, arena)
    except InferenceError as error:
        logger.error("rank %d ends: %s", start.rank, error)  # noqa: TRY400  # the message is complete
        return 1
    return 0


def _config(start: Start) -> EngineConfig:
    fields: dict[str, Any] = {**start.config, "model_path": Path(str(start.config["model_path"]))}
    return EngineConfig(**fields)


def _load(start: Start, config: EngineConfig, group: GlooGroup) -> tuple[Runner, AdapterArena]:
    limit_caches()
    set_num_threads(config.num_threads)
    whole = read_architecture(config.model_path)
    weights = BaseWeights.open(config.model_path, whole, getattr(torch, config.dtype))
    arena = AdapterArena(
        group.shard.architecture(whole),
        config.num_adapter_rows,
        config.num_adapter_slots,
        weights.dtype,
        config.device,
    )
    return load_runner(config, weights, arena, start.max_context, start.num_blocks, group), arena


def _follow(source: IO[bytes], runner: Runner, arena: AdapterArena) -> None:
    while (message := read_message(source)) is not None:
        if isinstance(message, Forward):
            runner.compute(message.layout)
        elif isinstance(message, Write):
            rows = slice(message.first_row, message.first_row + message.rank)
            arena.write(unpack_blend(message), message.slot, rows)
        elif isinstance(message, Erase):
            arena.erase(message.slot)


if __name__ == "__main__":
    sys.exit(main())
