"""Turns the hidden states of a step into sampled tokens, and these into chunks and failures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING

from msgspec.structs import replace

from inference.errors import InferenceError, NumericalError
from inference.model.decoder import MAX_LOGIT_ROWS
from inference.probe import ErrorProbe
from inference.protocol import Chunk
from inference.request import EmbeddingRequest, GenerationRequest
from inference.sampling.sampler import INVALID_TOKEN, SampledToken, sample_tokens
from inference.scheduling.step import ComputedTokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from inference.probe import ProbeSums
    from inference.protocol import FinishReason, ProbeStates
    from inference.request import Request
    from inference.runner import Runner
    from inference.sampling.vocabulary import Vocabulary
    from inference.scheduling.prefix_cache import PrefixCache
    from inference.scheduling.scheduler import Scheduler
    from inference.scheduling.step import Step


@dataclass(frozen=True, slots=True)
class Failure:
    """An accepted request that ended with an error."""

    request_id: str
    error: InferenceError
    last: Chunk | None = None
    """What of the answer was still held back, with the probe of its tokens, if the request or its adapter is
    the cause.
    """


Output = Chunk | Failure


@dataclass(frozen=True)
class _States:
    """The final hidden states of a step, [num_tokens, hidden]."""

    in_model_dtype: Tensor

    @cached_property
    def in_fp32(self) -> Tensor:
        return self.in_model_dtype.float()

    @cached_property
    def by_row(self) -> Sequence[Tensor]:
        """The fp32 states one by one: faster than to index each."""
        return self.in_fp32.unbind()


@dataclass(frozen=True, slots=True)
class _Run:
    """A request that samples. The state in `row` predicts its next token. Each following row has the state
    after one more token of `proposal`, which counts only if those tokens are sampled.
    """

    request: GenerationRequest
    row: int
    proposal: list[int]

    @property
    def rows(self) -> range:
        """The rows whose logits may be needed."""
        return range(self.row, self.row + len(self.proposal) + 1)

    def is_right(self, place: int, output: Output) -> bool:
        """Whether `output` is the token at `place` of the proposal, and does not end the answer."""
        if not isinstance(output, Chunk) or output.finish_reason is not None:
            return False
        return output.token_ids == self.proposal[place : place + 1]


class OutputProcessor:
    """Advances requests by the states of a step."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        prefixes: PrefixCache,
        vocabulary: Vocabulary,
        remove: Callable[[Request], None],
    ) -> None:
        """`remove` is called with every request that ends."""
        self._runner = runner
        self._scheduler = scheduler
        self._prefixes = prefixes
        self._vocabulary = vocabulary
        self._remove = remove
        self._errors = ErrorProbe(runner)
        self.num_proposed_tokens = 0
        self.num_accepted_tokens = 0

    def process(self, step: Step, hidden: Tensor) -> list[Output]:
        """Record the final `hidden` states [num_tokens, hidden] of `step`, in its order, and sample for the
        requests without pending tokens.
        """
        states = _States(hidden)
        computed: list[ComputedTokens] = []
        proposals: list[list[int]] = []
        row = 0
        for entry in step.scheduled:
            rows, row = range(row, row + entry.num_tokens), row + entry.num_rows
            if entry.proposal and not states.in_fp32[rows.start : row].isfinite().all():
                self._retry(entry.request)
                continue
            computed.append(ComputedTokens(entry.request, rows))
            proposals.append(entry.proposal)
            self.num_proposed_tokens += len(entry.proposal)
        self._record(computed, states)
        outputs: list[Output] = []
        runs: list[_Run] = []
        for (request, rows), proposal in zip(computed, proposals, strict=True):
            if request.num_pending > 0:
                continue
            if isinstance(request, GenerationRequest):
                runs.append(_Run(request, rows.stop - 1, proposal))
            else:
                outputs.append(self._finish_embedding(request))
        for group in _group_by_rows(runs):
            outputs += self._extend_answers(group, states)
        return outputs

    def fail(self, request: Request, error: InferenceError, last: Chunk | None = None) -> Failure:
        """End `request` with an error, after its `last` chunk."""
        self._remove(request)
        if isinstance(error, NumericalError):
            self._prefixes.invalidate(request)
        return Failure(request.request_id, error, last)

    def _retry(self, request: Request) -> None:
        """Compute a request again without proposals. A token that is never sampled may drive an adapter to
        NaN, which reaches the states of the tokens before it: 0 * NaN is NaN.
        """
        if isinstance(request, GenerationRequest):
            request.lookup = None
        self._scheduler.preempt(request)

    def _record(self, computed: Sequence[ComputedTokens], states: _States) -> None:
        """Add computed tokens to the prefix cache and to the probes of their requests."""
        self._prefixes.record(computed, states.in_fp32)
        for request, rows in computed:
            if request.probe is not None:
                self._add_to_probe(request, request.probe, rows, states)
            request.num_computed += len(rows)

    def _add_to_probe(self, request: Request, probe: ProbeSums, rows: range, states: _States) -> None:
        start, chosen = request.num_computed, slice(rows.start, rows.stop)
        if isinstance(request, EmbeddingRequest):
            targets = request.probe_targets(start, start + len(rows))
            self._errors.add_given(probe, targets, states.in_model_dtype[chosen], start, request.slot)
        elif len(rows) == 1:
            probe.add_one(states.by_row[rows.start], start)
            return
        probe.add(states.in_fp32[chosen], start)

    def _extend_answers(self, runs: Sequence[_Run], states: _States) -> list[Output]:
        """Sample the next token of each run. While it is the proposed one, record the state that was computed
        for it and sample the token after it, as steps of one token each would do.
        """
        rows = [row for run in runs for row in run.rows]
        slots = [run.request.slot for run in runs for _ in run.rows]
        logits = self._runner.logits(states.in_model_dtype, rows, slots)
        logits_row = {row: number for number, row in enumerate(rows)}
        outputs: list[Output] = []
        for place in count():
            chosen = [logits_row[run.row + place] for run in runs]
            new = self._sample(
                [run.request for run in runs], logits if len(chosen) == len(rows) else logits[chosen]
            )
            outputs += new
            runs = [run for run, output in zip(runs, new, strict=True) if run.is_right(place, output)]
            if not runs:
                break
            first, last = place + 1, place + 2
            accepted = [ComputedTokens(run.request, range(run.row + first, run.row + last)) for run in runs]
            self._accept(accepted, states)
        return outputs

    def _accept(self, tokens: Sequence[ComputedTokens], states: _States) -> None:
        self.num_accepted_tokens += len(tokens)
        for request, _ in tokens:
            self._scheduler.charge_answer_token(
                request
            )  # for the token after it, which this step samples too
        self._record(tokens, states)

    def _sample(self, requests: Sequence[GenerationRequest], logits: Tensor) -> list[Output]:
        """The outputs of the next tokens, by `logits` [len(requests), vocab]."""
        likely = self._errors.likely_tokens([request.probe for request in requests], logits)
        tokens = sample_tokens(
            logits, [request.sampling for request in requests], self._vocabulary, self._runner.argmax
        )
        if likely is not None:
            self._errors.add(likely, [token.token_id for token in tokens])
        return [self._append(request, token) for request, token in zip(requests, tokens, strict=True)]

    def _append(self, request: GenerationRequest, token: SampledToken) -> Output:
        state = request.sampling
        if token.token_id == INVALID_TOKEN:
            return self._fail_answer(request, state.error or NumericalError(request.adapter_digest))
        request.token_ids.append(token.token_id)
        state.push(token.token_id)
        is_end = token.token_id in self._vocabulary.end_token_ids and not state.sampling.ignore_eos
        text = "" if is_end else request.text.push(token.token_id)
        if is_end or request.text.is_stopped:
            return self._finish(request, "stop", token, text)
        if request.num_answer_tokens >= request.max_tokens:
            return self._finish(request, "length", token, text)
        return make_chunk(request, token, text)

    def _fail_answer(self, request: GenerationRequest, error: InferenceError) -> Failure:
        """End a request for which no token could be sampled."""
        if request.probe is not None:
            request.probe.drop_last()
        states = request.probe_states()
        probe = states if states is not None and states.is_finite else None
        last = make_chunk(request, None, request.text.flush(), probe) if request.num_answer_tokens else None
        return self.fail(request, error, last)

    def _finish(
        self, request: GenerationRequest, reason: FinishReason, token: SampledToken, text: str
    ) -> Output:
        states, text = request.probe_states(), text + request.text.flush()
        if states is not None and not states.is_finite:
            return self.fail(
                request, NumericalError(request.adapter_digest), make_chunk(request, token, text)
            )
        self._remove(request)
        request.finish_reason = reason
        chunk = make_chunk(request, token, text, states)
        is_called = reason == "stop" and request.calls is not None and request.calls.is_complete
        return replace(chunk, finish_reason="tool_calls") if is_called else chunk

    def _finish_embedding(self, request: Request) -> Output:
        states = request.probe_states()
        if states is None or not states.is_finite:
            return self.fail(request, NumericalError(request.adapter_digest))
        self._remove(request)
        request.finish_reason = "stop"
        return make_chunk(request, None, "", states)


def _group_by_rows(runs: Iterable[_Run]) -> Iterator[list[_Run]]:
    """`runs` in order, in groups that need at most `MAX_LOGIT_ROWS` rows of logits each."""
    group: list[_Run] = []
    num_rows = 0
    for run in runs:
        num_rows += len(run.rows)
        if num_rows > MAX_LOGIT_ROWS:
            yield group
            group, num_rows = [], len(run.rows)
        group.append(run)
    if group:
        yield group


def make_chunk(
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
