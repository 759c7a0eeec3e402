"""A rank that computes what the leader tells it; started by the leader, as `inference.parallel.follower`.

It ends when its standard input does, and so never outlives the leader.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch

from inference.config import EngineConfig
from inference.errors import InferenceError
from inference.lora.layers import AdapterArena
from inference.model.architecture import read_architecture
from inference.model.loader import BaseWeights
from inference.onednn import bound_caches
from inference.parallel.collective import Ranks
from inference.parallel.messages import READY, Erase, Forward, Load, Start, Write, read_message, unpack_stack
from inference.parallel.shards import Shard
from inference.runner import make_runner
from inference.threads import compute_with
from telemetry import logs

if TYPE_CHECKING:
    from inference.runner import Runner

logger = logging.getLogger(__name__)


def main() -> int:
    logs.setup()
    source = sys.stdin.buffer
    start = read_message(source)
    if not isinstance(start, Start):
        return 2  # the leader ended before it had begun, or somebody else has started us
    try:
        config = _config(start)
        group = Ranks(Shard(start.rank, config.tensor_parallel), Path(start.rendezvous))
        if not isinstance(read_message(source), Load):
            return 2
        runner, arena = _load(start, config, group)
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        _follow(source, runner, arena)
    except InferenceError as error:
        logger.error("rank %d ends: %s", start.rank, error)  # noqa: TRY400  # it says all
        return 1
    return 0


def _config(start: Start) -> EngineConfig:
    fields: dict[str, Any] = {**start.config, "model_path": Path(str(start.config["model_path"]))}
    return EngineConfig(**fields)


def _load(start: Start, config: EngineConfig, group: Ranks) -> tuple[Runner, AdapterArena]:
    bound_caches()
    compute_with(config.num_threads)
    whole = read_architecture(config.model_path)
    weights = BaseWeights.open(config.model_path, whole, getattr(torch, config.dtype))
    arena = AdapterArena(
        group.shard.architecture(whole),
        config.num_adapter_rows,
        config.num_adapter_slots,
        weights.dtype,
        config.device,
    )
    return make_runner(config, weights, arena, start.max_context, start.num_blocks, group), arena


def _follow(source: IO[bytes], runner: Runner, arena: AdapterArena) -> None:
    while (message := read_message(source)) is not None:
        if isinstance(message, Forward):
            runner.compute(message.layout)
        elif isinstance(message, Write):
            stack = unpack_stack(message)
            arena.write(stack, message.slot, slice(message.first_row, message.first_row + message.rank))
        elif isinstance(message, Erase):
            arena.erase(message.slot)


if __name__ == "__main__":
    sys.exit(main())
