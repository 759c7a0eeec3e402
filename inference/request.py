"""Requests and their state in the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inference.lora.segments import BASE_SLOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.probe import ProbeSums
    from inference.prompt_lookup import PromptLookup
    from inference.protocol import AdapterBlend, AdapterRef, FinishReason, ProbeStates
    from inference.sampling.state import SamplingState
    from inference.tokenization.detokenizer import TextStream
    from inference.tool_calls import CallParser


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One sequence. The first `num_computed` of its `token_ids` are in the KV cache."""

    request_id: str
    token_ids: list[int]  # prompt and answer
    num_prompt_tokens: int
    adapter: AdapterRef | AdapterBlend | None
    probe: ProbeSums | None
    payer: str = ""
    priority: int = 0
    aged_priority: int = 0  # of the highest class whose queue it has joined
    arrived_at: float = 0.0
    queue_seconds: float = 0.0  # from arrival until it first ran
    held_since: float = math.inf  # since when it has lacked adapter rows
    expires_at: float = math.inf
    arrival: int = 0  # sequence number
    slot: int = BASE_SLOT
    num_computed: int = 0
    block_table: list[int] = field(default_factory=list)
    num_base_tokens: int | None = None  # leading ones without the adapter; None: unknown until it is loaded
    prefix_root: bytes | None = None  # None: no prefix sharing; see `inference.scheduling.prefix_cache`
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
    def num_sampled_tokens(self) -> int:
        """Answer tokens that the model sampled."""
        return 0

    @property
    def num_pending(self) -> int:
        """Tokens still to be computed: 1 while decoding, more in prefill or after a preemption."""
        return len(self.token_ids) - self.num_computed

    @property
    def num_sharable(self) -> int:
        """Tokens that may come from shared kv_blocks. The last token is always computed, for its logits.
        With a probe so are the tokens whose states belong to the answer, unless the probe has seen them
        before.
        """
        last = len(self.token_ids) - 1
        if self.probe is None:
            return last
        return min(last, max(self.num_prompt_tokens - 1, self.probe.num_seen))

    @property
    def adapter_digest(self) -> str | None:
        return None if self.adapter is None else self.adapter.digest

    def locate(self, invocation: Sequence[int]) -> bool:
        """Set `num_base_tokens`: the adapter is active from the last occurrence of `invocation` in the prompt
        on. False if there is none.
        """
        size = len(invocation)
        starts = range(self.num_prompt_tokens - size, -1, -1)
        wanted = list(invocation)
        found = (start for start in starts if self.token_ids[start : start + size] == wanted)
        self.num_base_tokens = next(found, None) if size else 0
        return self.num_base_tokens is not None

    def needs(self, adapter: AdapterRef | AdapterBlend) -> bool:
        """Whether the request uses `adapter`: alone, as its blend, or as a part of its blend."""
        return self.adapter is not None and (self.adapter == adapter or adapter in self.adapter.refs)

    def probe_states(self) -> ProbeStates | None:
        """The states seen by the probe; None without a probe, or before the prompt is computed."""
        if self.probe is None or self.probe.num_seen < self.num_prompt_tokens:
            return None
        return self.probe.finish(self.num_answer_tokens)


@dataclass(slots=True, eq=False, kw_only=True)
class GenerationRequest(Request):
    """A request whose answer is sampled."""

    max_tokens: int
    sampling: SamplingState
    text: TextStream
    calls: CallParser | None = None  # of a request with tools
    lookup: PromptLookup | None = None  # None: no tokens are proposed

    @property
    def num_sampled_tokens(self) -> int:
        return self.num_answer_tokens


@dataclass(slots=True, eq=False, kw_only=True)
class EmbeddingRequest(Request):
    """A request with a given answer, computed for its states alone.

    `token_ids` lacks the answer's last token, `last_token_id`, which is predicted but need not be computed.
    """

    probe: ProbeSums
    last_token_id: int | None  # None without an answer

    @property
    def num_answer_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens + (self.last_token_id is not None)

    def probe_targets(self, start: int, end: int) -> list[tuple[int, int]]:
        """(position, the answer token predicted from its state) for the positions from `start` to `end` that
        the probe has not seen.
        """
        if self.last_token_id is None:
            return []
        first = max(start, self.probe.num_seen, self.num_prompt_tokens - 1)
        following = [*self.token_ids[first + 1 : end + 1], self.last_token_id]
        return list(zip(range(first, end), following, strict=False))
