"""The engine's facade: add requests, step, read chunks. Not thread-safe; adapters load on threads of their
own.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

import torch

from inference.errors import (
    AdapterNotInvokedError,
    ContextLengthExceededError,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
)
from inference.kernels.onednn import limit_caches
from inference.kernels.threads import set_num_threads
from inference.lora.host import AdapterHost
from inference.model.base_model import base_model_digest
from inference.model.families import read_architecture
from inference.model.kv_cache import bytes_per_block
from inference.model.loader import BaseWeights
from inference.model.sources import model_name
from inference.outputs import OutputProcessor, make_chunk
from inference.probe import ProbeSums
from inference.prompt_lookup import PromptLookup
from inference.protocol import (
    AdapterBlend,
    AdapterRef,
    Chunk,
    Generate,
    Status,
)
from inference.request import EmbeddingRequest, GenerationRequest
from inference.runner import load_runner
from inference.sampling.grammar import GrammarCompiler
from inference.sampling.state import SamplingState, validate_sampling
from inference.sampling.vocabulary import Vocabulary
from inference.scheduling.block_manager import BlockManager
from inference.scheduling.prefix_cache import PrefixCache
from inference.scheduling.queue_limits import QueueLimits
from inference.scheduling.scheduler import Scheduler
from inference.scheduling.step import StepLimits
from inference.tokenization.detokenizer import TextStream
from inference.tokenization.tokenizer import ChatTokenizer
from inference.tool_calls import CallParser, call_grammar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from inference.config import EngineConfig
    from inference.model.architecture import Architecture
    from inference.outputs import Failure, Output
    from inference.protocol import Constraint, CountTokens
    from inference.request import Request
    from inference.sampling.grammar import Grammar
    from inference.tool_calls import CallGrammar


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
        end_token_ids = self.architecture.eos_token_ids | self.tokenizer.eos_token_ids
        self.vocabulary = Vocabulary(self.architecture.vocab_size, end_token_ids, self.tokenizer.to_json)
        self.grammars = GrammarCompiler(self.vocabulary)
        num_blocks = _num_blocks(config, self.architecture, dtype)
        self._blocks = BlockManager(num_blocks, config.kv_block_size)
        self.max_context = min(config.max_context or self.architecture.max_context, self._blocks.max_tokens)
        weights = BaseWeights.open(config.model_path, self.architecture, dtype, config.quantization)
        self._adapters = AdapterHost(config, weights, self.base_model_digest, self._wake)
        self._runner = load_runner(config, weights, self._adapters.arena, self.max_context, num_blocks)
        hidden_size = self.architecture.hidden_size
        self._prefixes = PrefixCache(self._blocks, config.prefix_sharing, hidden_size, config.device)
        self._queue_limits = QueueLimits(config.max_waiting, config.max_waiting_tokens)
        limits = StepLimits(
            config.max_running, config.max_step_tokens, config.num_adapter_rows, self._runner.fixed_rows
        )
        self._scheduler = Scheduler(
            self._blocks, self._adapters, self._prefixes, self._queue_limits, limits, clock
        )
        self._outputs = OutputProcessor(
            self._runner, self._scheduler, self._prefixes, self.vocabulary, self._remove
        )
        self._on_loaded, self._loaded = on_loaded, threading.Event()
        self._clock = clock
        self._requests: dict[str, Request] = {}
        self._timed: dict[str, Request] = {}  # the requests that have a deadline
        self._shed: list[Failure] = []
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
            command.messages, command.prompt, command.tools, command.reasoning_effort, self.max_context
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
        `prompt_token_ids` and `grammar`. The answer's text continues that of a raw prompt: `command.prompt`
        is not None then, and may be empty with `prompt_token_ids`.
        Raises `InvalidRequestError`, `InvalidSchemaError`, `UnsupportedModelError`,
        `ContextLengthExceededError`, `OverloadedError`.
        """
        sampling = validate_sampling(command.sampling, self.vocabulary.size)
        prompt = list(prompt_token_ids or self.encode_prompt(command))
        self._check_vocabulary(prompt)
        constraint = self.constraint_of(command)
        if constraint is not None and grammar is None:
            grammar = self.grammars.compile(constraint, command.payer)
        if sampling.logprobs is not None:
            self.vocabulary.warm_up()
        # The answer to a chat is a text of its own, and so it is when the next request sends it back.
        continued = () if command.prompt is None else prompt
        self._accept(
            GenerationRequest(
                request_id=command.request_id,
                token_ids=prompt,
                num_prompt_tokens=len(prompt),
                max_tokens=min(sampling.max_tokens, self.max_context - len(prompt)),
                sampling=SamplingState(sampling, prompt, grammar),
                adapter=command.adapter_or_blend,
                text=TextStream(self.tokenizer, sampling.stop, continued),
                calls=self._call_parser(command),
                lookup=PromptLookup(len(prompt)) if self.config.prompt_lookup else None,
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
        self._check_vocabulary([*prompt, *answer])
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
        return make_chunk(request, None, text, states if states is not None and states.is_finite else None)

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
        outputs += [self._outputs.fail(request, _not_invoked(request)) for request in step.refused]
        if step.scheduled:
            self._prefixes.begin(step)
            outputs += self._outputs.process(step, self._runner.forward(step))
        self.is_stalled = not step.scheduled and not outputs
        return outputs

    def run(self) -> Iterator[Output]:
        """Step until idle, blocking while adapters load."""
        for outputs in self.steps():
            yield from outputs

    def steps(self) -> Iterator[list[Output]]:
        """The outputs of each step until idle, as by `run`."""
        while not self.is_idle:
            yield self.step()
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
            num_proposed_tokens=self._outputs.num_proposed_tokens,
            num_accepted_tokens=self._outputs.num_accepted_tokens,
            weight_format=self.config.weight_format,
            num_adapter_slots=self.config.num_adapter_slots,
            **adapters.counts,
        )

    def close(self) -> None:
        self._adapters.registry.close()

    def _wake(self) -> None:
        self._loaded.set()
        self._on_loaded()

    def _check_vocabulary(self, token_ids: Sequence[int]) -> None:
        """Raises `InvalidRequestError` for a token that the tokenizer has and the model has not, which would
        read behind the embeddings.
        """
        highest, size = max(token_ids), self.architecture.vocab_size
        if highest >= size:
            raise InvalidRequestError(
                f"the text has token {highest} of the tokenizer, but the model's last token is {size - 1}; "
                "remove special tokens that were added to the tokenizer alone"
            )

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
        """Shed requests of the payers with the largest shares until `request` fits into the waiting queue.
        Raises `OverloadedError`, and sheds none, if its own payer would have the largest share before.
        """
        victims = self._scheduler.victims_for(request)
        if victims is None:
            raise self._overloaded()
        for victim in victims:
            self._shed.append(self._outputs.fail(victim, self._overloaded()))

    def _overloaded(self) -> OverloadedError:
        return OverloadedError(self._queue_limits.num_requests, self._queue_limits.num_tokens)

    def _fail_overdue(self) -> Iterator[Failure]:
        now = self._clock()
        for request in [request for request in self._timed.values() if request.expires_at <= now]:
            yield self._outputs.fail(request, DeadlineExceededError(request.num_answer_tokens))

    def _fail_unloadable(self) -> Iterator[Failure]:
        for refused, error in self._adapters.pop_failures():
            for request in [each for each in self._scheduler.waiting() if each.needs(refused)]:
                yield self._outputs.fail(request, error)

    def _remove(self, request: Request) -> None:
        del self._requests[request.request_id]
        self._timed.pop(request.request_id, None)
        self._scheduler.remove(request)


def _num_blocks(config: EngineConfig, architecture: Architecture, dtype: torch.dtype) -> int:
    """The kv_blocks, each with the sum of its states, that fit into the budget."""
    num_bytes = bytes_per_block(architecture, config.kv_block_size, dtype)
    return config.kv_budget_bytes // (num_bytes + PrefixCache.bytes_per_block(architecture.hidden_size))


def _not_invoked(request: Request) -> AdapterNotInvokedError:
    return AdapterNotInvokedError(
        "the prompt",
        f"the tokens that activate adapter {request.adapter_digest} are not in it; end the prompt with the "
        "adapter's invocation, as its card describes",
    )
