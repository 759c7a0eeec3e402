"""Leading rank of tensor parallelism: starts the other ranks, announces every step, and fails when one of
them ends.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from inference.errors import RankLostError
from inference.executor.messages import READY, Erase, Forward, Load, Start, pack_blend, write_message
from inference.executor.runner import load_runner
from inference.lora.arena import AdapterArena
from inference.lora.shards import shard_blend
from inference.model.collective import GlooGroup, SingleRank
from inference.model.shards import Shard

if TYPE_CHECKING:
    import torch

    from inference.config import EngineConfig
    from inference.executor.layout import StepLayout
    from inference.executor.messages import Message
    from inference.executor.runner import Runner
    from inference.lora.blend import Blend
    from inference.model.architecture import Architecture
    from inference.model.collective import Collective
    from inference.model.loader import BaseWeights


_GRACE_SECONDS = 5.0


class FollowerRanks:
    """Processes of the ranks 1 to `config.tensor_parallel` - 1; none by default. Each ends when its pipe is
    closed. Sending to a rank that has ended raises `RankLostError`.
    """

    def __init__(self, config: EngineConfig, max_context: int, num_blocks: int) -> None:
        self._ranks = range(1, config.tensor_parallel)
        self.shard = Shard(0, config.tensor_parallel)
        self._folder = tempfile.TemporaryDirectory(prefix="loraledger-ranks-")
        self._rendezvous = Path(self._folder.name) / "rendezvous"
        self._processes = {
            rank: subprocess.Popen(
                [sys.executable, "-m", "inference.executor.follower"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for rank in self._ranks
        }
        fields = {**dataclasses.asdict(config), "model_path": str(config.model_path)}
        for rank in self._ranks:
            self._send(rank, Start(fields, rank, str(self._rendezvous), max_context, num_blocks))

    @property
    def process_ids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    def connect(self) -> Collective:
        """Connect all ranks, and let the followers load their shares."""
        if not self._processes:
            return SingleRank()
        group = GlooGroup(self.shard, self._rendezvous)
        for rank in self._ranks:
            self._send(rank, Load())
        return group

    def wait_until_ready(self) -> None:
        for rank, process in self._processes.items():
            if process.stdout is None or READY not in process.stdout:  # `in` reads until it is found
                raise RankLostError(f"rank {rank} could not load its share; see its log")

    def announce(self, layout: StepLayout) -> None:
        """Start a step on all followers."""
        for rank in self._ranks:
            self._send(rank, Forward(layout))

    def write(self, blend: Blend, slot: int, first_row: int) -> None:
        """Send each follower its share of the adapters."""
        for rank in self._ranks:
            self._send(rank, pack_blend(shard_blend(Shard(rank, self.shard.size), blend), slot, first_row))

    def erase(self, slot: int) -> None:
        for rank in self._ranks:
            self._send(rank, Erase(slot))

    def close(self) -> None:
        for process in self._processes.values():
            with process:
                try:
                    process.communicate(timeout=_GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()  # it waits for a lost rank's summand, and does not read its pipe
        self._folder.cleanup()

    def _send(self, rank: int, message: Message) -> None:
        process = self._processes[rank]
        try:
            if process.stdin is not None:
                write_message(process.stdin, message)
        except OSError as error:
            raise RankLostError(f"rank {rank} has ended, exit code {process.wait()}") from error


def start_ranks(
    config: EngineConfig, weights: BaseWeights, max_context: int, num_blocks: int
) -> tuple[FollowerRanks, LeaderArena, Runner]:
    """Start all ranks and load the first rank's share.

    Raises `RankLostError`, `ModelNotFoundError`, `UnsupportedModelError`.
    """
    followers = FollowerRanks(config, max_context, num_blocks)
    try:
        collective = followers.connect()
        arena = LeaderArena(followers, weights.architecture, config, weights.dtype)
        runner = load_runner(config, weights, arena, max_context, num_blocks, collective, followers.announce)
        followers.wait_until_ready()
    except BaseException:
        followers.close()
        raise
    return followers, arena, runner


class LeaderArena(AdapterArena):
    """The first rank's share of the active adapters. Sends every change to the other ranks."""

    def __init__(
        self, followers: FollowerRanks, whole: Architecture, config: EngineConfig, dtype: torch.dtype
    ) -> None:
        architecture = followers.shard.architecture(whole)
        super().__init__(
            architecture, config.num_adapter_rows, config.num_adapter_slots, dtype, config.device
        )
        self._followers = followers

    def write(self, blend: Blend, slot: int, rows: slice) -> None:
        self._followers.write(blend, slot, rows.start)
        super().write(shard_blend(self._followers.shard, blend), slot, rows)

    def erase(self, slot: int) -> None:
        self._followers.erase(slot)
        super().erase(slot)
