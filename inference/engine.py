"""The engine's facade: add requests, step, read chunks. Not thread-safe; adapters load on threads of their
own.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from msgspec.structs import replace

from inference.errors import (
    AdapterNotInvokedError,
    ContextLengthExceededError,
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    NumericalError,
    OverloadedError,
)
from inference.executor.leader import start_ranks
from inference.kernels.onednn import limit_caches
from inference.kernels.threads import set_num_threads
from inference.lora.host import AdapterHost
from inference.model.base_model import base_model_digest
from inference.model.families import read_architecture
from inference.model.kv_cache import bytes_per_block
from inference.model.loader import BaseWeights
from inference.model.shards import Shard
from inference.model.sources import model_name
from inference.probe import ErrorProbe, ProbeSums
from inference.protocol import (
    AdapterBlend,
    AdapterRef,
    Chunk,
    FinishReason,
    Generate,
    ProbeStates,
    Status,
)
from inference.request import EmbeddingRequest, GenerationRequest
from inference.sampling.grammar import GrammarCompiler
from inference.sampling.sampler import INVALID_TOKEN, SampledToken, sample_tokens
from inference.sampling.state import SamplingState, validate_sampling
from inference.sampling.vocabulary import Vocabulary
from inference.scheduling.block_manager import BlockManager
from inference.scheduling.prefix_cache import PrefixCache
from inference.scheduling.queue_limits import QueueLimits
from inference.scheduling.scheduler import Scheduler
from inference.tokenization.detokenizer import TextStream
from inference.tokenization.tokenizer import ChatTokenizer
from inference.tool_calls import CallParser, call_grammar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from inference.config import EngineConfig
    from inference.protocol import Constraint, CountTokens
    from inference.request import Request
    from inference.sampling.grammar import Grammar
    from inference.scheduling.scheduler import Step
    from inference.tool_calls import CallGrammar


@dataclass(frozen=True, slots=True)
class Failure:
    """An accepted request that ended with an error."""

    request_id: str
    error: InferenceError


Output = Chunk | Failure


class Engine:
    """One base model, its KV cache and its adapters.

    `add` and `embed` accept work, `step` advances all of it and returns what is new, `abort` ends one
    request.
    """

    def __init__(
        self,
        config: EngineConfig,
        on_loaded: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the model. `on_loaded` is called on a loader thread after each adapter load.
        Raises `ModelNotFoundError`, `UnsupportedModelError`.
        """
        limit_caches()
        set_num_threads(config.num_threads)
        dtype: torch.dtype = getattr(torch, config.dtype)
        self.config = config
        self.architecture = read_architecture(config.model_path)
        self.base_model_digest = base_model_digest(config.model_path)
        self.tokenizer = ChatTokenizer(config.model_path)
        shard = Shard(0, config.tensor_parallel).architecture(self.architecture)
        num_bytes = bytes_per_block(shard, config.kv_block_size, dtype)
        num_bytes += PrefixCache.bytes_per_block(self.architecture.hidden_size)
        num_blocks = config.kv_budget_bytes // num_bytes
        self._blocks = BlockManager(num_blocks, config.kv_block_size)
        self.max_context = min(config.max_context or self.architecture.max_context, self._blocks.max_tokens)
        self._loaded = threading.Event()
        self._on_loaded = on_loaded
        weights = BaseWeights.open(config.model_path, self.architecture, dtype, config.quantization)
        self._followers, arena, self._runner = start_ranks(config, weights, self.max_context, num_blocks)
        self._errors = ErrorProbe(self._runner)
        self._adapters = AdapterHost(config, weights, self.base_model_digest, arena, self._wake)
        self._prefixes = PrefixCache(
            self._blocks, config.prefix_sharing, self.architecture.hidden_size, config.device
        )
        self._queue_limits = QueueLimits(config.max_waiting, config.max_waiting_tokens)
        self._scheduler = Scheduler(
            self._blocks,
            self._adapters,
            self._queue_limits,
            config.max_running,
            config.max_step_tokens,
            self._prefixes.name_prompt,
            clock,
        )
        self._shed: list[Failure] = []
        self._clock = clock
        self._timed: dict[str, Request] = {}  # the requests that have a deadline
        self._requests: dict[str, Request] = {}
        end_token_ids = self.architecture.eos_token_ids | self.tokenizer.eos_token_ids
        self.vocabulary = Vocabulary(self.architecture.vocab_size, end_token_ids, self.tokenizer.to_json)
        self.grammars = GrammarCompiler(self.vocabulary)
        self._num_arrivals = 0
        self.is_stalled = False

    @property
    def is_idle(self) -> bool:
        return not self._requests

    @property
    def seconds_to_deadline(self) -> float | None:
        """Seconds until the next deadline of a request; None if no request has one."""
        instants = [request.expires_at for request in self._timed.values()]
        return max(0.0, min(instants) - self._clock()) if instants else None

    def encode_prompt(self, command: Generate | CountTokens) -> list[int]:
        """Raises as `ChatTokenizer.encode_prompt`."""
        return self.tokenizer.encode_prompt(
            command.messages, command.prompt, command.tools, command.reasoning_effort
        )

    def constraint_of(self, command: Generate) -> Constraint | CallGrammar | None:
        """The constraint of the answer: its own, its tools', or both. Raises `InvalidRequestError`."""
        if command.tools is None:
            return command.sampling.constraint
        return call_grammar(command.tools, self.tokenizer.call_syntax, command.sampling)

    def _call_parser(self, command: Generate) -> CallParser | None:
        if command.tools is None:
            return None
        return CallParser(self.tokenizer.call_syntax, is_either=command.sampling.constraint is not None)

    def add(
        self,
        command: Generate,
        prompt_token_ids: Sequence[int] | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        """Accept a request. A caller that has already encoded the prompt or compiled the constraint passes
        `prompt_token_ids` and `grammar`.
        Raises `InvalidRequestError`, `InvalidSchemaError`, `UnsupportedModelError`,
        `ContextLengthExceededError`, `OverloadedError`.
        """
        sampling = validate_sampling(command.sampling, self.vocabulary.size)
        prompt = list(prompt_token_ids or self.encode_prompt(command))
        constraint = self.constraint_of(command)
        if constraint is not None and grammar is None:
            grammar = self.grammars.compile(constraint)
        if sampling.logprobs is not None:
            self.vocabulary.warm_up()
        self._accept(
            GenerationRequest(
                request_id=command.request_id,
                token_ids=prompt,
                num_prompt_tokens=len(prompt),
                max_tokens=min(sampling.max_tokens, self.max_context - len(prompt)),
                sampling=SamplingState(sampling, prompt, grammar),
                adapter=command.adapter_or_blend,
                text=TextStream(self.tokenizer, sampling.stop),
                calls=self._call_parser(command),
                probe=ProbeSums(len(prompt), command.probe_error) if command.probe else None,
                payer=command.payer,
                priority=command.priority,
                expires_at=self._clock() + (command.deadline_ms or math.inf) / 1000,
            )
        )

    def embed(
        self,
        request_id: str,
        prompt: Sequence[int],
        answer: Sequence[int],
        adapter: AdapterRef | AdapterBlend | None,
    ) -> None:
        """Accept a prompt and its answer for their states alone. A single `Chunk` with a probe ends the
        request.

        The states equal those that `add` with a probe returns when the model samples this answer. Raises the
        errors of `add`.
        """
        self._accept(
            EmbeddingRequest(
                request_id=request_id,
                token_ids=[*prompt, *answer[:-1]],
                num_prompt_tokens=len(prompt),
                adapter=adapter,
                probe=ProbeSums(len(prompt)),
                last_token_id=answer[-1] if answer else None,
            )
        )

    def abort(self, request_id: str) -> Chunk | None:
        """End a request and return its last chunk; None for an unknown id, or one whose failure the next step
        returns.

        The chunk has a probe if one was requested, the prompt has been computed, and all states are finite.
        """
        request = self._requests.get(request_id)
        if request is None:
            return None
        self._remove(request)
        request.finish_reason = "abort"
        text = request.text.flush() if isinstance(request, GenerationRequest) else ""
        states = request.probe_states()
        return _chunk(request, None, text, states if states is not None and states.is_finite else None)

    @torch.inference_mode()
    def step(self) -> list[Output]:
        """Advance every request that can run by one step and return the new outputs.

        Sets `is_stalled` when nothing happened: all requests wait for adapters to load, and the next step can
        do nothing before a load ends or `seconds_to_deadline` have passed.
        """
        self._loaded.clear()
        self._adapters.registry.poll()
        # Failures are reported before scheduling, which would start the same loads again, and after it for
        # loads that fail immediately.
        outputs: list[Output] = [*self._shed, *self._fail_overdue(), *self._fail_unloadable()]
        self._shed.clear()
        step = self._scheduler.schedule()
        outputs += self._fail_unloadable()
        outputs += [self._fail(request, _not_invoked(request)) for request in step.refused]
        if step.scheduled:
            self._prefixes.begin(step)
            outputs += self._advance(step, self._runner.forward(step))
        self.is_stalled = not step.scheduled and not outputs
        return outputs

    def run(self) -> Iterator[Output]:
        """Step until idle, blocking while adapters load."""
        while not self.is_idle:
            outputs = self.step()
            yield from outputs
            if self.is_stalled:
                self._loaded.wait(self.seconds_to_deadline)

    def check_integrity(self) -> None:
        """Compare kv_blocks, slots and registry with the requests. Raises `AssertionError`."""
        running = self._scheduler.running
        self._blocks.check_integrity(request.block_table for request in running)
        self._scheduler.check_integrity()
        self._adapters.check_integrity([request.slot for request in running], self._scheduler.waiting_digests)
        owned = {request.request_id for request in (*running, *self._scheduler.waiting())}
        if owned != self._requests.keys():
            raise AssertionError(f"requests lost or not removed: {owned ^ self._requests.keys()}")

    def status(self, request_id: str = "") -> Status:
        adapters, blocks = self._adapters, self._blocks
        return Status(
            request_id=request_id,
            model=model_name(self.config.model_path),
            base_model_digest=self.base_model_digest,
            max_context=self.max_context,
            active_adapters=adapters.slots.active_digests,
            resident_adapters=adapters.registry.resident_digests,
            resident_bytes=adapters.registry.resident_bytes,
            num_running=len(self._scheduler.running),
            num_waiting=self._scheduler.num_waiting,
            kv_blocks_used=blocks.num_blocks - blocks.num_free,
            kv_blocks_total=blocks.num_blocks,
            num_preemptions=self._scheduler.num_preemptions,
            prefix_cache_queries=self._prefixes.num_queried_tokens,
            prefix_cache_hits=self._prefixes.num_hit_tokens,
            kv_blocks_named=blocks.num_named,
            plain_features=self.architecture.special_features,
            **adapters.counts,
        )

    def close(self) -> None:
        self._adapters.registry.close()
        self._followers.close()

    def _wake(self) -> None:
        self._loaded.set()
        self._on_loaded()

    def _accept(self, request: Request) -> None:
        if request.request_id in self._requests:
            raise InvalidRequestError(f"request id {request.request_id!r} is in use")
        if request.num_tokens >= self.max_context:
            raise ContextLengthExceededError(request.num_tokens, self.max_context)
        self._make_room(request)
        if request.expires_at < math.inf:
            self._timed[request.request_id] = request
        request.arrival = self._num_arrivals
        self._num_arrivals += 1
        self._requests[request.request_id] = request
        self._scheduler.add(request)

    def _make_room(self, request: Request) -> None:
        """Shed requests of the payer with the largest share until `request` fits into the waiting queue.
        Raises `OverloadedError` if its own payer would have the largest share.
        """
        while not self._queue_limits.has_room(request.num_tokens):
            error = OverloadedError(self._queue_limits.num_requests, self._queue_limits.num_tokens)
            victim = self._scheduler.victim_for(request)
            if victim is None:
                raise error
            self._shed.append(self._fail(victim, error))

    def _fail_overdue(self) -> Iterator[Failure]:
        now = self._clock()
        for request in [request for request in self._timed.values() if request.expires_at <= now]:
            yield self._fail(request, DeadlineExceededError(request.num_answer_tokens))

    def _fail_unloadable(self) -> Iterator[Failure]:
        for refused, error in self._adapters.pop_failures():
            for request in [each for each in self._scheduler.waiting() if each.needs(refused)]:
                yield self._fail(request, error)

    def _advance(self, step: Step, hidden: Tensor) -> list[Output]:
        """Record the computed states, and sample for the requests without pending tokens."""
        outputs: list[Output] = []
        due: list[tuple[GenerationRequest, int]] = []  # (request, row of its last token)
        row = 0
        states = hidden.float()
        self._prefixes.record(step, states)
        state_of_row = states.unbind()  # faster than to index each row
        for entry in step.scheduled:
            request = entry.request
            if request.probe is not None:
                if isinstance(request, GenerationRequest) and entry.num_tokens == 1:
                    request.probe.add_one(state_of_row[row], request.num_computed)
                else:
                    self._add_to_probe(request, slice(row, row + entry.num_tokens), hidden, states)
            request.num_computed += entry.num_tokens
            row += entry.num_tokens
            if request.num_pending > 0:
                continue
            if isinstance(request, GenerationRequest):
                due.append((request, row - 1))
            else:
                outputs.append(self._finish_embedding(request))
        if due:
            outputs += self._sample(due, hidden)
        return outputs

    def _add_to_probe(self, request: Request, rows: slice, hidden: Tensor, states: Tensor) -> None:
        """Add the states in `rows` of the batch, in the model's dtype and in fp32, to the request's probe."""
        if isinstance(request, EmbeddingRequest):
            start = request.num_computed
            targets = request.probe_targets(start, start + rows.stop - rows.start)
            self._errors.add_given(request.probe, targets, hidden[rows], start, request.slot)
        if request.probe is not None:
            request.probe.add(states[rows], request.num_computed)

    def _sample(self, due: Sequence[tuple[GenerationRequest, int]], hidden: Tensor) -> list[Output]:
        requests = [request for request, _ in due]
        slots = [request.slot for request in requests]
        logits = self._runner.logits(hidden, [row for _, row in due], slots)
        likely = self._errors.likely_tokens([request.probe for request in requests], logits)
        tokens = sample_tokens(
            logits, [request.sampling for request in requests], self.vocabulary, self._runner.argmax
        )
        if likely is not None:
            # The probe of a request that fails, whose token id is -1, is never returned.
            self._errors.add(likely, [max(0, token.token_id) for token in tokens])
        return [self._append(request, token) for request, token in zip(requests, tokens, strict=True)]

    def _append(self, request: GenerationRequest, token: SampledToken) -> Output:
        state = request.sampling
        if token.token_id == INVALID_TOKEN:
            return self._fail(request, state.error or NumericalError(request.adapter_digest))
        request.token_ids.append(token.token_id)
        state.push(token.token_id)
        is_end = token.token_id in self.vocabulary.end_token_ids and not state.sampling.ignore_eos
        text = "" if is_end else request.text.push(token.token_id)
        if is_end or request.text.is_stopped:
            return self._finish(request, "stop", token, text)
        if request.num_answer_tokens >= request.max_tokens:
            return self._finish(request, "length", token, text)
        return _chunk(request, token, text)

    def _finish(
        self, request: GenerationRequest, reason: FinishReason, token: SampledToken, text: str
    ) -> Output:
        states = request.probe_states()
        if states is not None and not states.is_finite:
            return self._fail(request, NumericalError(request.adapter_digest))
        self._remove(request)
        request.finish_reason = reason
        chunk = _chunk(request, token, text + request.text.flush(), states)
        is_called = reason == "stop" and request.calls is not None and request.calls.is_complete
        return replace(chunk, finish_reason="tool_calls") if is_called else chunk

    def _finish_embedding(self, request: Request) -> Output:
        states = request.probe_states()
        if states is None or not states.is_finite:
            return self._fail(request, NumericalError(request.adapter_digest))
        self._remove(request)
        request.finish_reason = "stop"
        return _chunk(request, None, "", states)

    def _fail(self, request: Request, error: InferenceError) -> Failure:
        self._remove(request)
        if isinstance(error, NumericalError):
            self._prefixes.invalidate(request)
        return Failure(request.request_id, error)

    def _remove(self, request: Request) -> None:
        del self._requests[request.request_id]
        self._timed.pop(request.request_id, None)
        self._scheduler.remove(request)


def _not_invoked(request: Request) -> AdapterNotInvokedError:
    return AdapterNotInvokedError(
        "the prompt",
        f"the tokens that activate adapter {request.adapter_digest} are not in it; end the prompt with the "
        "adapter's invocation, as its card describes",
    )


def _chunk(
    request: Request, token: SampledToken | None, text: str, probe: ProbeStates | None = None
) -> Chunk:
    parser = request.calls if isinstance(request, GenerationRequest) else None
    content, calls = (None, ()) if parser is None else parser.push(text)
    if parser is not None and request.finish_reason is not None:
        content = f"{content}{parser.flush()}"
    return Chunk(
        request_id=request.request_id,
        text=text,
        token_ids=[] if token is None else [token.token_id],
        prompt_tokens=request.num_prompt_tokens,
        completion_tokens=request.num_sampled_tokens,
        finish_reason=request.finish_reason,
        probe=probe,
        cached_prompt_tokens=request.num_cached_prompt_tokens,
        logprobs=None if token is None or token.logprobs is None else [token.logprobs],
        queue_seconds=request.queue_seconds,
        content=content,
        calls=calls,
    )
