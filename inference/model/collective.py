"""Sums over the ranks that compute one model together."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import torch.distributed

from inference.errors import RankLostError
from inference.model.shards import WHOLE, Shard

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_distributed: Any = torch.distributed  # the type stubs lack much of gloo
TIMEOUT_SECONDS = 60.0  # a rank that is silent for this long within a step counts as lost


class Collective(Protocol):
    """Communication of one rank with the others."""

    @property
    def shard(self) -> Shard: ...

    def all_reduce(self, summand: Tensor) -> Tensor:
        """The sum over all ranks; `summand` may be overwritten."""


class SingleRank:
    """A single rank, whose sum is its own summand."""

    shard = WHOLE

    def all_reduce(self, summand: Tensor) -> Tensor:
        return summand


class GlooGroup:
    """Several processes of one machine, connected by torch.distributed's gloo."""

    def __init__(self, shard: Shard, rendezvous: Path) -> None:
        """Wait for the other ranks at `rendezvous`, the path of a file that does not exist yet.

        Raises `RankLostError`.
        """
        self.shard = shard
        gloo = _distributed.ProcessGroupGloo
        options = gloo._Options()  # noqa: SLF001  # no public name
        options._devices = [gloo.create_device(hostname="127.0.0.1")]  # noqa: SLF001
        options._timeout = timedelta(seconds=TIMEOUT_SECONDS)  # noqa: SLF001
        try:
            store = _distributed.FileStore(str(rendezvous), shard.size)
            store.set_timeout(timedelta(seconds=TIMEOUT_SECONDS))
            self._group = gloo(store, shard.rank, shard.size, options)
        except RuntimeError as error:
            raise RankLostError(f"the {shard.size} ranks did not connect: {error}") from error

    def all_reduce(self, summand: Tensor) -> Tensor:
        """Raises `RankLostError`."""
        try:
            self._group.allreduce([summand]).wait()
        except RuntimeError as error:
            raise RankLostError(f"a rank was lost during a step: {error}") from error
        return summand
