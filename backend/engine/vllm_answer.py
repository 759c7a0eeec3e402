"""Chunks of an answer from the events of vLLM's completions API."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from msgspec import DecodeError, Meta, Raw, Struct
from msgspec.json import decode
from msgspec.structs import replace

from backend.domain.errors import InvalidInput
from backend.engine.output_rows import TOP_TOKENS, OutputRows
from backend.ports.engine import EngineUnavailable
from inference.errors import GrammarTooComplexError, NumericalError
from inference.protocol import Chunk, JsonSchema, ProbeStates, TokenLogprob, TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from backend.engine.vllm_constraints import Constraints
    from inference.errors import InferenceError
    from inference.protocol import FinishReason, Generate
    from inference.sampling.vocabulary import Vocabulary

_ID_PREFIX = "token_id:"

_Count: TypeAlias = Annotated[int, Meta(ge=0)]


class Logprobs(Struct, frozen=True):
    """One item for each token. Keys of `top_logprobs` are ids (`token_id:7`), the sampled one among them.
    JSON has no NaN, so that vLLM writes null.
    """

    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None]]

    @property
    def have_nan(self) -> bool:
        return None in chain(self.token_logprobs, *(each.values() for each in self.top_logprobs))


class Choice(Struct, frozen=True):
    text: str
    token_ids: list[_Count] | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    """The stop string that ended the answer, or the id of an end token other than the usual one."""


class PromptDetails(Struct, frozen=True):
    cached_tokens: _Count | None = None


class Usage(Struct, frozen=True):
    prompt_tokens: _Count
    completion_tokens: _Count | None = 0
    prompt_tokens_details: PromptDetails | None = None


class Failure(Struct, frozen=True):
    message: str


class Part(Struct, frozen=True):
    """An event of the stream. The last one has no choice."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Failure | None = None


@dataclass(frozen=True, slots=True)
class AnswerParts:
    """What a base model's checkpoint adds to its answers."""

    rows: OutputRows
    vocabulary: Vocabulary
    constraints: Constraints


def read_answer_parts(folder: Path) -> AnswerParts:
    """Errors: `InvalidInput` if the checkpoint cannot be read."""
    from backend.engine.vllm_constraints import Constraints
    from inference.errors import InferenceError
    from inference.model.families import read_architecture
    from inference.sampling.vocabulary import Vocabulary

    try:
        architecture = read_architecture(folder)
        vocabulary = Vocabulary(
            architecture.vocab_size, architecture.eos_token_ids, lambda: _read_tokenizer(folder)
        )
        return AnswerParts(OutputRows(folder), vocabulary, Constraints(vocabulary))
    except InferenceError as error:
        raise InvalidInput(f"A base model that vLLM serves: {error}", "model") from error


def _read_tokenizer(folder: Path) -> str:
    from inference.errors import UnsupportedModelError

    try:
        return (folder / "tokenizer.json").read_text()
    except OSError as error:
        raise UnsupportedModelError(
            f"constraints and log-probabilities need a tokenizer.json next to the weights: {error.strerror}"
        ) from error


class AnswerReader:
    """Counts an answer's tokens, sums its error vector, and says whether its schema cut it off."""

    def __init__(self, request: Generate, parts: AnswerParts) -> None:
        self._request, self._parts = request, parts
        self.prompt_tokens = 0
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._error: Any = None  # [hidden] fp32
        self._texts: list[str] = []
        self._last: tuple[Choice, list[TokenLogprobs] | None, FinishReason] | None = None

    def push(self, part: Part) -> Iterator[Chunk]:
        """The chunk of an event. The one with the finish reason is held back, because usage follows it.

        Errors: `EngineUnavailable` as of `_logprobs`; `InvalidInput` as of `_leave_range`.
        """
        adapter = self._request.adapter_or_blend
        if adapter is not None and any(each.logprobs and each.logprobs.have_nan for each in part.choices):
            yield from self._leave_range(adapter.digest)
        if part.usage is not None:
            self.prompt_tokens = part.usage.prompt_tokens
            self._completion_tokens = part.usage.completion_tokens or 0
            details = part.usage.prompt_tokens_details
            self._cached_tokens = (details.cached_tokens if details else None) or self._cached_tokens
        for choice in part.choices:
            self._texts.append(choice.text)
            logprobs = self._logprobs(choice)
            if choice.finish_reason is not None:
                self._last = choice, logprobs, _finish_reason(choice)
            else:
                yield self._chunk(choice.text, choice.token_ids or [], logprobs)

    def end(self) -> Iterator[Chunk]:
        """The last chunk. Errors: as of `_finished`; after the chunk, as from our engine, `InvalidInput` if
        the answer's schema was too complex to follow to its end.
        """
        last = self._finished()
        if not self._is_cut_off():
            yield last
            return
        yield replace(last, finish_reason=None)
        raise _ended_by(GrammarTooComplexError("vLLM ended the answer before its JSON was complete"))

    def _leave_range(self, digest: str) -> Iterator[Chunk]:
        """End an answer whose adapter drove the model out of the numeric range, as our engine does: after a
        chunk with the probe of what was returned, if anything was, `InvalidInput`.
        """
        if self._completion_tokens:
            yield replace(self.aborted(), finish_reason=None)
        raise _ended_by(NumericalError(digest))

    def _is_cut_off(self) -> bool:
        """Whether the answer's end is not that of its JSON: once a grammar exceeds its limits, vLLM allows no
        token but the end.
        """
        if self._last is None or not isinstance(self._request.sampling.constraint, JsonSchema):
            return False
        choice, _, finish_reason = self._last
        if finish_reason != "stop" or isinstance(choice.stop_reason, str):
            return False
        try:
            decode("".join(self._texts), type=Raw)
        except DecodeError:
            return True
        except RecursionError:  # it nests too deep to be read here
            return False
        return False

    def _finished(self) -> Chunk:
        """The last chunk. Errors: `EngineUnavailable` if the stream ended without one."""
        if self._last is None:
            raise failure("ended during this request")
        choice, logprobs, finish_reason = self._last
        return self._chunk(choice.text, choice.token_ids or [], logprobs, finish_reason)

    def aborted(self) -> Chunk:
        """The last chunk of a request that its client ends now. A chunk that is held back is counted, so it
        is the last one then.
        """
        return self._chunk("", [], None, "abort") if self._last is None else self._finished()

    def _chunk(
        self,
        text: str,
        token_ids: list[int],
        logprobs: list[TokenLogprobs] | None,
        finish_reason: FinishReason | None = None,
    ) -> Chunk:
        return Chunk(
            self._request.request_id,
            text,
            token_ids,
            self.prompt_tokens,
            self._completion_tokens,
            finish_reason,
            None if finish_reason is None else self._probe(),
            self._cached_tokens,
            logprobs,
        )

    def _probe(self) -> ProbeStates | None:
        if self._error is None:
            return None
        counts = self.prompt_tokens, self._completion_tokens
        return ProbeStates(None, None, *counts, error=self._error.tolist())

    def _logprobs(self, choice: Choice) -> list[TokenLogprobs] | None:
        """The log-probabilities that the request asks for; adds to the error vector on the way.

        Errors: `EngineUnavailable` if they are NaN, not of the choice's tokens, or of no tokens of the base
        model.
        """
        try:
            return self._read_logprobs(choice)
        except (ValueError, LookupError):
            # Without its cause, which may quote the answer.
            raise failure("returned log-probabilities that are NaN or do not fit its tokens") from None

    def _read_logprobs(self, choice: Choice) -> list[TokenLogprobs] | None:
        if choice.logprobs is None:
            return None
        found = []
        places = zip(
            choice.token_ids or [],
            choice.logprobs.token_logprobs,
            choice.logprobs.top_logprobs,
            strict=True,
        )
        for token_id, logprob, alternatives in places:
            top = _ranked(alternatives)
            if self._request.probe_error:
                error = self._parts.rows.error(token_id, top[:TOP_TOKENS])
                self._error = error if self._error is None else self._error + error
            found.append((token_id, _number(logprob), top))
        num_top = self._request.sampling.logprobs
        return None if num_top is None else [self._shown(*place, num_top) for place in found]

    def _shown(
        self, token_id: int, logprob: float, top: Sequence[tuple[int, float]], num_top: int
    ) -> TokenLogprobs:
        def shown(each: int, value: float) -> TokenLogprob:
            return TokenLogprob(each, self._parts.vocabulary.token_bytes(each), value)

        return TokenLogprobs(shown(token_id, logprob), [shown(*pair) for pair in top[:num_top]])


def _ranked(alternatives: dict[str, float | None]) -> list[tuple[int, float]]:
    """Ids and log-probabilities, likeliest first. A sampled token that is not among the likeliest is last."""
    pairs = [(int(key.removeprefix(_ID_PREFIX)), _number(value)) for key, value in alternatives.items()]
    return sorted(pairs, key=lambda pair: -pair[1])


def _number(value: float | None) -> float:
    if value is None:
        raise ValueError("a log-probability is no number")
    return value


def _finish_reason(choice: Choice) -> FinishReason:
    match choice.finish_reason:
        case "stop" | "length" | "abort":
            return choice.finish_reason
        case other:
            raise failure(f"ended an answer for the reason {other!r}")


def _ended_by(error: InferenceError) -> InvalidInput:
    """As the client of our engine raises it."""
    return InvalidInput(str(error), details={"code": error.code})


def failure(what: str) -> EngineUnavailable:
    """The error of a server that `what`."""
    return EngineUnavailable(f"the inference engine (vLLM) {what}; try again shortly")
