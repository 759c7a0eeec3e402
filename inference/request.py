"""A request and its state while the engine works on it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inference.lora.segments import BASE_SLOT

if TYPE_CHECKING:
    from inference.probe import ProbeSums
    from inference.protocol import AdapterBlend, AdapterRef, FinishReason, ProbeStates
    from inference.sampling.state import SamplingState
    from inference.text import TextStream


@dataclass(slots=True, eq=False)
class Request:
    """One sequence. `token_ids` holds prompt and answer; `num_computed` of them are in the KV cache.

    `sampling` is None when nothing is sampled: the tokens are given and only their states are wanted.
    """

    request_id: str
    token_ids: list[int]
    num_prompt_tokens: int
    max_tokens: int
    sampling: SamplingState | None
    adapter: AdapterRef | AdapterBlend | None
    text: TextStream | None
    probe: ProbeSums | None
    payer: str = ""
    priority: int = 0  # grows while it waits
    waiting_since: float = 0.0
    arrived_at: float = 0.0
    queue_seconds: float = 0.0  # until it first ran
    expires_at: float = math.inf
    arrival: int = 0
    slot: int = BASE_SLOT
    num_computed: int = 0
    block_table: list[int] = field(default_factory=list)
    closing_token_id: int | None = None  # of a given answer; predicted, but never computed
    prefix_root: bytes | None = None  # None: nothing is shared; see `inference.prefix`
    block_names: list[bytes] = field(default_factory=list)
    num_cached_prompt_tokens: int = 0
    num_preemptions: int = 0
    finish_reason: FinishReason | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_answer_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_pending(self) -> int:
        """Tokens still to be computed: 1 while decoding, more in prefill or after a preemption."""
        return len(self.token_ids) - self.num_computed

    @property
    def num_sharable(self) -> int:
        """Tokens that need not be computed if their kv_blocks are known. The last one always is, for its
        logits; under a probe so are those whose states belong to the answer, unless they were seen before.
        """
        last = len(self.token_ids) - 1
        if self.probe is None:
            return last
        return min(last, max(self.num_prompt_tokens - 1, self.probe.num_seen))

    @property
    def adapter_digest(self) -> str | None:
        return None if self.adapter is None else self.adapter.digest

    def needs(self, choice: AdapterRef | AdapterBlend) -> bool:
        """Whether it can run only with `choice`: its adapter, its blend, or an adapter of its blend."""
        return self.adapter is not None and (self.adapter == choice or choice in self.adapter.refs)

    def given_targets(self, start: int, end: int) -> list[tuple[int, int]]:
        """(position, the given answer's token that its state predicts) of those from `start` to `end` that
        the probe has not seen; none where tokens are sampled.
        """
        if self.probe is None or self.closing_token_id is None:
            return []
        first = max(start, self.probe.num_seen, self.num_prompt_tokens - 1)
        following = [*self.token_ids[first + 1 : end + 1], self.closing_token_id]
        return list(zip(range(first, end), following, strict=False))

    def probe_states(self) -> ProbeStates | None:
        """What the probe has seen; None without one, or before the prompt was computed."""
        if self.probe is None or self.probe.num_seen < self.num_prompt_tokens:
            return None
        # A given answer lacks its last token here, see `Engine.embed`; `max_tokens` is its whole length.
        return self.probe.finish(self.max_tokens if self.sampling is None else self.num_answer_tokens)
