"""Grammars that constrain answers, compiled and followed by llguidance; see docs/adr/0010."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec
from llguidance import LLMatcher

from inference.errors import GrammarTooComplexError, InvalidSchemaError, InvalidToolSchemaError
from inference.sampling import grammar_check
from inference.tool_calls import CallGrammar

if TYPE_CHECKING:
    from inference.protocol import Constraint
    from inference.sampling.vocabulary import Vocabulary

_MAX_CACHED = 32
_MAX_SECONDS = 20  # of wall time; the effective limit is on CPU time


class Grammar:
    """A compiled constraint. All requests with it share its automaton, which grows during answers.

    When one request drives the shared automaton over its limits, all its requests fail, and the grammar
    cannot be used again.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary) -> None:
        self._matcher = matcher
        self.vocabulary = vocabulary
        self.is_exhausted = False

    def start(self) -> GrammarState:
        return GrammarState(self, self._matcher.deep_copy())


class GrammarState:
    """State of one answer in its grammar; depends only on the pushed tokens."""

    def __init__(self, grammar: Grammar, matcher: LLMatcher) -> None:
        self._grammar = grammar
        self._matcher = matcher

    def allowed(self) -> bytes:
        """Bitmask of the allowed tokens, lowest bit first, possibly padded. Where the answer may end, the end
        tokens are allowed.

        Raises `GrammarTooComplexError`.
        """
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            self._grammar.is_exhausted = True
            reason, _, _ = self._matcher.get_error().partition("\n")
            raise GrammarTooComplexError(reason)
        return mask

    def push(self, token_id: int) -> None:
        """Append `token_id`, which must be allowed, to the answer."""
        if token_id not in self._grammar.vocabulary.end_token_ids:
            self._matcher.consume_token(token_id)


class GrammarCompiler:
    """Compiles constraints, on any thread, and caches the latest ones."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._cache: OrderedDict[Constraint | CallGrammar, Grammar | InvalidSchemaError] = OrderedDict()

    def cached(self, constraint: Constraint | CallGrammar) -> Grammar | None:
        """The grammar of a constraint that was compiled lately, at once. Raises as `compile`."""
        with self._lock:
            found = self._cache.get(constraint)
            if found is None or (isinstance(found, Grammar) and found.is_exhausted):
                return None
            self._cache.move_to_end(constraint)
        return _unless_refused(found)

    def compile(self, constraint: Constraint | CallGrammar) -> Grammar:
        """Compile a constraint, which takes up to a second of CPU time in another process unless it is
        cached.

        Raises `InvalidSchemaError`, `InvalidToolSchemaError`, `UnsupportedModelError`.
        """
        if (cached := self.cached(constraint)) is not None:
            return cached
        found = self._compile(constraint)
        with self._lock:
            self._cache[constraint] = found
            self._cache.move_to_end(constraint)
            if len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        return _unless_refused(found)

    def _compile(self, constraint: Constraint | CallGrammar) -> Grammar | InvalidSchemaError:
        message = msgspec.to_builtins(constraint)
        refused = _check(message)
        if refused is not None:
            return _refusal(constraint, *refused)
        grammar = grammar_check.grammar_of(message)
        matcher = LLMatcher(self._vocabulary.trie, grammar, log_level=0, limits=grammar_check.limits())
        matcher.compute_bitmask()  # computes the first states here rather than on the engine's thread
        if matcher.is_error():
            return _refusal(constraint, None, matcher.get_error().partition("\n")[0])
        return Grammar(matcher, self._vocabulary)


def _unless_refused(found: Grammar | InvalidSchemaError) -> Grammar:
    if isinstance(found, InvalidSchemaError):
        raise type(found)(found.where, found.reason)
    return found


def _refusal(constraint: Constraint | CallGrammar, where: str | None, reason: str) -> InvalidSchemaError:
    """`where` is None if it is unknown. Locations in the schema of a text begin with `#`, those in the schema
    of a function with its name.
    """
    if not isinstance(constraint, CallGrammar) or (where or "").startswith("#"):
        return InvalidSchemaError(where or "#", reason)
    return InvalidToolSchemaError(where or "tools", reason)


def _check(message: dict[str, object]) -> tuple[str | None, str] | None:
    """Location, as far as it is known, and reason of a refusal."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", grammar_check.__file__],
            input=json.dumps(message),
            capture_output=True,
            text=True,
            check=False,
            timeout=_MAX_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None, f"it took more than {_MAX_SECONDS} s to compile"
    output = [json.loads(line) for line in done.stdout.splitlines()]
    if output == [None]:
        return None
    if output:
        return output[1] if len(output) > 1 else None, output[0]
    budget = f"{grammar_check.MAX_CPU_SECONDS} s of CPU time or {grammar_check.MAX_MIB} MiB"
    return None, f"it needs more than {budget}, or nests references too deeply"
