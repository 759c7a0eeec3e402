"""Prefix cache: names kv_blocks by their content, and stores the sums of their hidden states for probes.

A full block's name is a BLAKE2b chain over the sharing scope, every token up to the block's end, and the
adapter with the position from which on it is active. So the blocks before that position are those of the base
model. Two blocks with the same name hold the same keys and values, so a request can reuse the blocks
of another one's prefix.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, NamedTuple

import torch

from inference.kernels.memory import lazy_zeros

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from inference.config import PrefixSharing
    from inference.request import Request
    from inference.scheduling.block_manager import BlockManager
    from inference.scheduling.step import ComputedTokens, Step

_STATE_DTYPE = torch.float32


def root_name(adapter_digest: str | None, scope: str) -> bytes:
    """Name of the empty prefix under an adapter (None: the base model), for the requests that share
    `scope`.
    """
    identity = f"{adapter_digest or 'base'}\0{scope}".encode()
    return hashlib.blake2b(identity, digest_size=32, person=b"kv_root").digest()


class Activation(NamedTuple):
    """An adapter that is active from position `start` on."""

    start: int
    digest: str

    def mark(self, parent: bytes) -> bytes:
        """The name `parent` of the blocks before, for the first block with a position of the adapter."""
        content = parent + struct.pack("<Q", self.start) + self.digest.encode()
        return hashlib.blake2b(content, digest_size=32, person=b"kv_activation").digest()


def extend_names(
    names: list[bytes],
    root: bytes,
    token_ids: Sequence[int],
    block_size: int,
    activation: Activation | None = None,
) -> None:
    """Append the missing names of the full blocks of `token_ids` to `names`."""
    for start in range(len(names) * block_size, len(token_ids) - block_size + 1, block_size):
        tokens = struct.pack(f"<{block_size}I", *token_ids[start : start + block_size])
        parent = names[-1] if names else root
        if activation is not None and start <= activation.start < start + block_size:
            parent = activation.mark(parent)
        names.append(hashlib.blake2b(parent + tokens, digest_size=32, person=b"kv_block").digest())


class PrefixCache:
    """Names the blocks that a step fills, and provides probes with the states of shared blocks.

    For each block it stores the sum of the final hidden states of its positions in fp32: `bytes_per_block` in
    addition to the block's keys and values.
    """

    def __init__(
        self,
        blocks: BlockManager,
        sharing: PrefixSharing,
        hidden_size: int,
        device: torch.device | str,
    ) -> None:
        self._blocks = blocks
        self._sharing = sharing
        self._sums = lazy_zeros((blocks.num_blocks + 1, hidden_size), _STATE_DTYPE, device)
        self.num_queried_tokens = 0
        self.num_hit_tokens = 0

    @staticmethod
    def bytes_per_block(hidden_size: int) -> int:
        return hidden_size * _STATE_DTYPE.itemsize

    def name_prompt(self, request: Request) -> None:
        """Name the full blocks of a new request's prompt, so that it can reuse cached ones."""
        if self._sharing == "off":
            return
        scope = request.payer if self._sharing == "payer" else ""
        # Without leading tokens of the base model, no block can be shared with it.
        digest = None if request.num_base_tokens else request.adapter_digest
        request.prefix_root = root_name(digest, scope)
        self._extend(request, request.num_tokens)

    def begin(self, step: Step) -> None:
        """Before the forward pass: clear the sums of fresh blocks, and add those of shared blocks to
        probes.
        """
        if self._sharing == "off":
            return
        if step.fresh_blocks:
            self._sums.index_fill_(0, torch.tensor(step.fresh_blocks, device=self._sums.device), 0.0)
        for request in step.admitted:
            if request.num_preemptions == 0:
                self.num_queried_tokens += request.num_tokens
                self.num_hit_tokens += request.num_computed
            if request.probe is not None and request.num_computed:
                num_blocks = request.num_computed // self._blocks.block_size
                shared = torch.tensor(request.block_table[:num_blocks], device=self._sums.device)
                request.probe.add_cached(self._sums[shared].sum(dim=0), request.num_computed)

    def record(self, computed: Sequence[ComputedTokens], states: Tensor) -> None:
        """After the forward pass, before `num_computed` advances: add the `states` [num_tokens, hidden] fp32
        of these tokens to the sums, and name the blocks that are full now. A proposed token is recorded once
        it is accepted: until then its position may be computed again.
        """
        if self._sharing == "off" or not computed:
            return
        size = self._blocks.block_size
        block_ids: list[int] = []
        filled: list[tuple[int, bytes]] = []
        for request, rows in computed:
            start = request.num_computed
            end = start + len(rows)
            block_ids += [request.block_table[position // size] for position in range(start, end)]
            if request.prefix_root is not None and start // size < end // size:
                self._extend(request, end)
                full = slice(start // size, end // size)
                filled += zip(request.block_table[full], request.block_names[full], strict=True)
        if len(block_ids) < len(states):
            states = states[[row for _, rows in computed for row in rows]]
        self._sums.index_add_(0, torch.tensor(block_ids, device=self._sums.device), states)
        self._name(filled)

    def invalidate(self, request: Request) -> None:
        """Stop sharing this request's blocks, because its adapter drove the model to NaN or infinity."""
        self._blocks.forget(request.block_names)

    def _extend(self, request: Request, end: int) -> None:
        """Name the full blocks of the request's first `end` tokens."""
        activation = None
        if request.num_base_tokens and request.adapter_digest is not None:
            activation = Activation(request.num_base_tokens, request.adapter_digest)
        root, size = request.prefix_root, self._blocks.block_size
        if root is not None:
            extend_names(request.block_names, root, request.token_ids[:end], size, activation)

    def _name(self, filled: Sequence[tuple[int, bytes]]) -> None:
        """Name the blocks with finite sums: a NaN or infinity in a block's keys or values appears in the
        final state of at least one of its positions.
        """
        if not filled:
            return
        blocks = torch.tensor([block for block, _ in filled], device=self._sums.device)
        is_finite = torch.isfinite(self._sums[blocks]).all(dim=1).tolist()
        for (block, name), is_valid in zip(filled, is_finite, strict=True):
            if is_valid:
                self._blocks.name(block, name)
