"""The engine's facade: add requests, step, read chunks. One thread; only adapter loads happen elsewhere."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from inference.block_manager import BlockManager
from inference.chat import ChatTokenizer
from inference.errors import (
    ContextLengthExceededError,
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    NumericalError,
    OverloadedError,
)
from inference.line import Line
from inference.lora.host import AdapterHost
from inference.model.architecture import read_architecture
from inference.model.base_model import base_model_digest
from inference.model.kv_cache import bytes_per_block
from inference.model.loader import BaseWeights
from inference.model.sources import model_name
from inference.onednn import bound_caches
from inference.parallel.leader import lead
from inference.parallel.shards import Shard
from inference.prefix import PrefixCache
from inference.probe import ErrorProbe, ProbeSums
from inference.protocol import AdapterBlend, AdapterRef, Chunk, FinishReason, Generate, ProbeStates, Status
from inference.request import Request
from inference.sampling.grammar import GrammarCompiler
from inference.sampling.sampler import NOT_FINITE, Choice, choose
from inference.sampling.state import SamplingState, checked
from inference.sampling.vocabulary import Vocabulary
from inference.scheduler import Scheduler
from inference.text import TextStream
from inference.threads import compute_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from inference.config import EngineConfig
    from inference.sampling.grammar import Grammar
    from inference.scheduler import Step


@dataclass(frozen=True, slots=True)
class Failure:
    """An accepted request that ended by an error."""

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
        """Load the model. `on_loaded` is called on a loader thread when an adapter load has ended.

        Raises `ModelNotFoundError`, `UnsupportedModelError`.
        """
        bound_caches()
        compute_with(config.num_threads)
        dtype: torch.dtype = getattr(torch, config.dtype)
        self.config = config
        self.architecture = read_architecture(config.model_path)
        self.base_model_digest = base_model_digest(config.model_path)
        self.tokenizer = ChatTokenizer(config.model_path)
        own = Shard(0, config.tensor_parallel).architecture(self.architecture)
        num_bytes = bytes_per_block(own, config.kv_block_size, dtype)
        num_bytes += PrefixCache.bytes_per_block(self.architecture.hidden_size)
        num_blocks = config.kv_budget_bytes // num_bytes
        self._blocks = BlockManager(num_blocks, config.kv_block_size)
        self.max_context = min(config.max_context or self.architecture.max_context, self._blocks.max_tokens)
        self._loaded = threading.Event()
        self._on_loaded = on_loaded
        weights = BaseWeights.open(config.model_path, self.architecture, dtype, config.quantization)
        self._followers, arena, self._runner = lead(config, weights, self.max_context, num_blocks)
        self._errors = ErrorProbe(self._runner)
        self._adapters = AdapterHost(config, weights, self.base_model_digest, arena, self._wake)
        self._prefixes = PrefixCache(
            self._blocks, config.prefix_sharing, self.architecture.hidden_size, config.device
        )
        self._line = Line(config.max_waiting, config.max_waiting_tokens)
        self._scheduler = Scheduler(
            self._blocks, self._adapters, self._line, config.max_running, config.max_step_tokens, clock
        )
        self._crowded_out: list[Failure] = []
        self._clock = clock
        self._timed: dict[str, Request] = {}  # those of `_requests` that have a deadline
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
        """Until the next deadline of a request; None if none has one."""
        instants = [request.expires_at for request in self._timed.values()]
        return max(0.0, min(instants) - self._clock()) if instants else None

    def add(
        self,
        command: Generate,
        prompt_token_ids: Sequence[int] | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        """Accept a request. `prompt_token_ids` and `grammar`, the compiled constraint, save doing here what
        the caller has done.

        Raises `InvalidRequestError`, `InvalidSchemaError`, `UnsupportedModelError`,
        `ContextLengthExceededError`, `OverloadedError`.
        """
        sampling = checked(command.sampling, self.vocabulary.size)
        prompt = list(prompt_token_ids or self.tokenizer.encode_prompt(command.messages, command.prompt))
        if sampling.constraint is not None and grammar is None:
            grammar = self.grammars.compile(sampling.constraint)
        if sampling.logprobs is not None:
            self.vocabulary.warm_up()
        self._accept(
            Request(
                request_id=command.request_id,
                token_ids=prompt,
                num_prompt_tokens=len(prompt),
                max_tokens=min(sampling.max_tokens, self.max_context - len(prompt)),
                sampling=SamplingState(sampling, prompt, grammar),
                adapter=command.choice,
                text=TextStream(self.tokenizer, sampling.stop),
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
        """Accept given token ids for their states alone: one `Chunk` with a probe ends the request.

        The states are those that `add` with a probe returns when the model gives this answer itself. Raises
        as `add` does.
        """
        self._accept(
            Request(
                request_id=request_id,
                token_ids=[*prompt, *answer[:-1]],  # the last token predicts nothing
                num_prompt_tokens=len(prompt),
                max_tokens=len(answer),
                sampling=None,
                adapter=adapter,
                text=None,
                probe=ProbeSums(len(prompt)),
                closing_token_id=answer[-1] if answer else None,
            )
        )

    def abort(self, request_id: str) -> Chunk | None:
        """End a request now. Its last chunk, or None for an id that is unknown or whose failure the next step
        returns.

        The chunk holds a probe if one was wanted, the prompt has been computed, and all of it is finite.
        """
        request = self._requests.get(request_id)
        if request is None:
            return None
        self._forget(request)
        request.finish_reason = "abort"
        text = request.text.flush() if request.text is not None else ""
        states = request.probe_states()
        return _chunk(request, None, text, states if states is not None and states.is_finite else None)

    @torch.inference_mode()
    def step(self) -> list[Output]:
        """Advance every request that can run by one step and return what is new.

        `is_stalled` is True afterwards when nothing happened: then all requests wait for adapters to load,
        and nothing will happen before one is there, or `seconds_to_deadline` have passed.
        """
        self._loaded.clear()
        self._adapters.registry.collect()
        # Before scheduling, which would load a refused adapter again; after it, for loads refused at once.
        outputs: list[Output] = [*self._crowded_out, *self._fail_overdue(), *self._fail_unloadable()]
        self._crowded_out.clear()
        step = self._scheduler.schedule()
        outputs += self._fail_unloadable()
        if step.scheduled:
            self._prefixes.begin(step)
            outputs += self._advance(step, self._runner.forward(step))
        self.is_stalled = not step.scheduled and not outputs
        return outputs

    def run(self) -> Iterator[Output]:
        """Step until idle; for callers that have nothing else to do meanwhile."""
        while not self.is_idle:
            outputs = self.step()
            yield from outputs
            if self.is_stalled:
                self._loaded.wait(self.seconds_to_deadline)

    def check_integrity(self) -> None:
        """Compare kv_blocks, slots and registry with what the requests hold. Raises `AssertionError`."""
        running = self._scheduler.running
        self._blocks.check_integrity(request.block_table for request in running)
        self._scheduler.check_integrity()
        self._adapters.check_integrity([request.slot for request in running], self._scheduler.waiting_digests)
        owned = {request.request_id for request in (*running, *self._scheduler.waiting())}
        if owned != self._requests.keys():
            raise AssertionError(f"requests lost or forgotten: {owned ^ self._requests.keys()}")

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
        self._prefixes.name_prompt(request)
        self._requests[request.request_id] = request
        self._scheduler.add(request)

    def _make_room(self, request: Request) -> None:
        """In the line, if need be at the cost of the payer who takes most of it. Raises `OverloadedError`."""
        while not self._line.has_room(request.num_tokens):
            error = OverloadedError(self._line.num_requests, self._line.num_tokens)
            victim = self._scheduler.who_must_go_for(request)
            if victim is None:
                raise error
            self._crowded_out.append(self._fail(victim, error))

    def _fail_overdue(self) -> Iterator[Failure]:
        now = self._clock()
        for request in [request for request in self._timed.values() if request.expires_at <= now]:
            yield self._fail(request, DeadlineExceededError(request.num_answer_tokens))

    def _fail_unloadable(self) -> Iterator[Failure]:
        for refused, error in self._adapters.take_failures():
            for request in [each for each in self._scheduler.waiting() if each.needs(refused)]:
                yield self._fail(request, error)

    def _advance(self, step: Step, hidden: Tensor) -> list[Output]:
        """Note what was computed, and sample for the requests whose tokens are all computed now."""
        due: list[tuple[Request, int]] = []  # with the row of their last token
        row = 0
        states = hidden.float()
        self._prefixes.record(step, states)
        for entry in step.scheduled:
            request = entry.request
            if request.probe is not None:
                self._errors.add_given(request, hidden[row : row + entry.num_tokens])
                request.probe.add(states[row : row + entry.num_tokens], request.num_computed)
            request.num_computed += entry.num_tokens
            row += entry.num_tokens
            if request.num_pending == 0:
                due.append((request, row - 1))
        given = [self._finish_given(request) for request, _ in due if request.sampling is None]
        return [*given, *self._sample(due, hidden)]

    def _sample(self, due: Sequence[tuple[Request, int]], hidden: Tensor) -> list[Output]:
        sampled = [(request, row, request.sampling) for request, row in due if request.sampling is not None]
        if not sampled:
            return []
        logits = self._runner.logits(hidden, [row for _, row, _ in sampled])
        expected = self._errors.expect([request for request, _, _ in sampled], logits)
        choices = choose(logits, [state for _, _, state in sampled], self.vocabulary, self._runner.argmax)
        if expected is not None:
            # A request that fails, its token -1, is past caring.
            self._errors.add(expected, [max(0, choice.token_id) for choice in choices])
        return [
            self._append(request, state, choice)
            for (request, _, state), choice in zip(sampled, choices, strict=True)
        ]

    def _append(self, request: Request, state: SamplingState, choice: Choice) -> Output:
        token_id = choice.token_id
        if token_id == NOT_FINITE:
            return self._fail(request, state.error or NumericalError(request.adapter_digest))
        request.token_ids.append(token_id)
        state.push(token_id)
        is_end = token_id in self.vocabulary.end_token_ids and not state.sampling.ignore_eos
        text = request.text.push(token_id) if request.text is not None and not is_end else ""
        if is_end or (request.text is not None and request.text.is_stopped):
            return self._finish(request, "stop", choice, text)
        if request.num_answer_tokens >= request.max_tokens:
            return self._finish(request, "length", choice, text)
        return _chunk(request, choice, text)

    def _finish(self, request: Request, reason: FinishReason, choice: Choice, text: str) -> Output:
        states = request.probe_states()
        if states is not None and not states.is_finite:
            return self._fail(request, NumericalError(request.adapter_digest))
        self._forget(request)
        request.finish_reason = reason
        text += request.text.flush() if request.text is not None else ""
        return _chunk(request, choice, text, states)

    def _finish_given(self, request: Request) -> Output:
        self._forget(request)
        states = request.probe_states()
        if states is None or not states.is_finite:
            self._prefixes.forget(request)
            return Failure(request.request_id, NumericalError(request.adapter_digest))
        request.finish_reason = "stop"
        return _chunk(request, None, "", states)

    def _fail(self, request: Request, error: InferenceError) -> Failure:
        self._forget(request)
        if isinstance(error, NumericalError):
            self._prefixes.forget(request)
        return Failure(request.request_id, error)

    def _forget(self, request: Request) -> None:
        del self._requests[request.request_id]
        self._timed.pop(request.request_id, None)
        self._scheduler.remove(request)


def _chunk(request: Request, choice: Choice | None, text: str, probe: ProbeStates | None = None) -> Chunk:
    return Chunk(
        request_id=request.request_id,
        text=text,
        token_ids=[] if choice is None else [choice.token_id],
        prompt_tokens=request.num_prompt_tokens,
        completion_tokens=0 if request.sampling is None else request.num_answer_tokens,
        finish_reason=request.finish_reason,
        probe=probe,
        cached_prompt_tokens=request.num_cached_prompt_tokens,
        logprobs=None if choice is None or choice.logprobs is None else [choice.logprobs],
        queue_seconds=request.queue_seconds,
    )
