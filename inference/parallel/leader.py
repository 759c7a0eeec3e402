"""The rank that schedules: it starts the others, tells them of every step, and ends when one of them does."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from inference.errors import RankLostError
from inference.lora.layers import AdapterArena
from inference.parallel.collective import Alone, Ranks
from inference.parallel.messages import READY, Erase, Forward, Load, Start, pack_stack, write_message
from inference.parallel.shards import Shard
from inference.runner import make_runner

if TYPE_CHECKING:
    import torch

    from inference.config import EngineConfig
    from inference.layout import StepLayout
    from inference.lora.stack import Stack
    from inference.model.architecture import Architecture
    from inference.model.loader import BaseWeights
    from inference.parallel.collective import Collective
    from inference.parallel.messages import Message
    from inference.runner import Runner


_GRACE_SECONDS = 5.0


class Followers:
    """Processes of the ranks 1 to `config.tensor_parallel` - 1; by default there are none. A pipe leads to
    each, and when it ends, so do they. Telling them anything raises `RankLostError` if one has ended.
    """

    def __init__(self, config: EngineConfig, max_context: int, num_blocks: int) -> None:
        self._ranks = range(1, config.tensor_parallel)
        self.shard = Shard(0, config.tensor_parallel)
        self._folder = tempfile.TemporaryDirectory(prefix="loraledger-ranks-")
        self._rendezvous = Path(self._folder.name) / "rendezvous"
        self._processes = {
            rank: subprocess.Popen(
                [sys.executable, "-m", "inference.parallel.follower"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for rank in self._ranks
        }
        fields = {**dataclasses.asdict(config), "model_path": str(config.model_path)}
        for rank in self._ranks:
            self._tell(rank, Start(fields, rank, str(self._rendezvous), max_context, num_blocks))

    @property
    def process_ids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    def join(self) -> Collective:
        """The group of all ranks. They go on to load their shares."""
        if not self._processes:
            return Alone()
        group = Ranks(self.shard, self._rendezvous)
        for rank in self._ranks:
            self._tell(rank, Load())
        return group

    def wait_until_ready(self) -> None:
        for rank, process in self._processes.items():
            if process.stdout is None or READY not in process.stdout:  # reads on until it comes
                raise RankLostError(f"rank {rank} could not load its share; its log says why")

    def announce(self, layout: StepLayout) -> None:
        """They compute the same step."""
        for rank in self._ranks:
            self._tell(rank, Forward(layout))

    def write(self, stack: Stack, slot: int, first_row: int) -> None:
        """Each gets its share of the adapters."""
        for rank in self._ranks:
            self._tell(rank, pack_stack(Shard(rank, self.shard.size).stack(stack), slot, first_row))

    def erase(self, slot: int) -> None:
        for rank in self._ranks:
            self._tell(rank, Erase(slot))

    def close(self) -> None:
        for process in self._processes.values():
            with process:
                try:
                    process.communicate(timeout=_GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()  # it waits for a sum that will not come, and does not see its pipe's end
        self._folder.cleanup()

    def _tell(self, rank: int, message: Message) -> None:
        process = self._processes[rank]
        try:
            if process.stdin is not None:
                write_message(process.stdin, message)
        except OSError as error:
            raise RankLostError(f"rank {rank} has ended, exit code {process.wait()}") from error


def lead(
    config: EngineConfig, weights: BaseWeights, max_context: int, num_blocks: int
) -> tuple[Followers, LeadingArena, Runner]:
    """Start all ranks and load the first one's share.

    Raises `RankLostError`, `ModelNotFoundError`, `UnsupportedModelError`.
    """
    followers = Followers(config, max_context, num_blocks)
    try:
        collective = followers.join()
        arena = LeadingArena(followers, weights.architecture, config, weights.dtype)
        runner = make_runner(config, weights, arena, max_context, num_blocks, collective, followers.announce)
        followers.wait_until_ready()
    except BaseException:
        followers.close()
        raise
    return followers, arena, runner


class LeadingArena(AdapterArena):
    """The first rank's share of the active adapters; the others get theirs with every change."""

    def __init__(
        self, followers: Followers, whole: Architecture, config: EngineConfig, dtype: torch.dtype
    ) -> None:
        own = followers.shard.architecture(whole)
        super().__init__(own, config.num_adapter_rows, config.num_adapter_slots, dtype, config.device)
        self._followers = followers

    def write(self, stack: Stack, slot: int, rows: slice) -> None:
        self._followers.write(stack, slot, rows.start)
        super().write(self._followers.shard.stack(stack), slot, rows)

    def erase(self, slot: int) -> None:
        self._followers.erase(slot)
        super().erase(slot)
