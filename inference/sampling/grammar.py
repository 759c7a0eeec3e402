"""Constraints on answers: which tokens may come next. The work is llguidance's; see docs/adr/0010."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec
from llguidance import LLMatcher

from inference.errors import GrammarTooComplexError, InvalidSchemaError
from inference.sampling import grammar_check

if TYPE_CHECKING:
    from inference.protocol import Constraint
    from inference.sampling.vocabulary import Vocabulary

_MAX_CACHED = 32
_MAX_SECONDS = 20  # by the clock; the limit that counts is one of computing time


class Grammar:
    """A compiled constraint. All requests under it share its automaton, which grows as answers need it.

    The sharing has a price: when one request drives the automaton over its limits, all of them fail, and the
    grammar is spent.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary) -> None:
        self._matcher = matcher
        self.vocabulary = vocabulary
        self.is_spent = False

    def start(self) -> GrammarState:
        return GrammarState(self, self._matcher.deep_copy())


class GrammarState:
    """Where one answer stands in its grammar: a function of the tokens pushed."""

    def __init__(self, grammar: Grammar, matcher: LLMatcher) -> None:
        self._grammar = grammar
        self._matcher = matcher

    def allowed(self) -> bytes:
        """A bit for each token or more, the lowest first. The end is allowed where an answer may end.

        Raises `GrammarTooComplexError`.
        """
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            self._grammar.is_spent = True
            reason, _, _ = self._matcher.get_error().partition("\n")
            raise GrammarTooComplexError(reason)
        return mask

    def push(self, token_id: int) -> None:
        """The answer goes on with `token_id`, one of those allowed."""
        if token_id not in self._grammar.vocabulary.end_token_ids:
            self._matcher.consume_token(token_id)


class GrammarCompiler:
    """Compiles constraints, slowly and on any thread, and keeps the last of them by their content."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._cache: OrderedDict[Constraint, Grammar | InvalidSchemaError] = OrderedDict()

    def compile(self, constraint: Constraint) -> Grammar:
        """Up to a second of computing time, in another process, for a constraint not seen lately.

        Raises `InvalidSchemaError`, `UnsupportedModelError`.
        """
        with self._lock:
            found = self._cache.pop(constraint, None)
            if found is None or (isinstance(found, Grammar) and found.is_spent):
                found = self._compile(constraint)
            self._cache[constraint] = found
            if len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        if isinstance(found, InvalidSchemaError):
            raise InvalidSchemaError(found.where, found.reason)
        return found

    def _compile(self, constraint: Constraint) -> Grammar | InvalidSchemaError:
        message = msgspec.to_builtins(constraint)
        refusal = _check(message)
        if refusal is not None:
            return refusal
        grammar = grammar_check.grammar_of(message)
        matcher = LLMatcher(self._vocabulary.trie, grammar, log_level=0, limits=grammar_check.limits())
        matcher.compute_bitmask()  # the automaton's first states, before the engine's thread needs them
        if matcher.is_error():
            return InvalidSchemaError("#", matcher.get_error().partition("\n")[0])
        return Grammar(matcher, self._vocabulary)


def _check(message: dict[str, object]) -> InvalidSchemaError | None:
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
        return InvalidSchemaError("#", f"it took more than {_MAX_SECONDS} s to compile")
    said = [json.loads(line) for line in done.stdout.splitlines()]
    if said == [None]:
        return None
    if said:
        return InvalidSchemaError(said[-1] if len(said) > 1 else "#", said[0])
    budget = f"{grammar_check.MAX_CPU_SECONDS} s of computing or {grammar_check.MAX_MIB} MiB"
    return InvalidSchemaError("#", f"it needs more than {budget}, or nests references too deeply")
