"""Grammars that constrain answers, compiled and followed by llguidance; see docs/adr/0010."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec
from llguidance import LLMatcher

from inference.errors import GrammarTooComplexError, InvalidSchemaError, InvalidToolSchemaError
from inference.sampling import grammar_check
from inference.tool_calls import CallGrammar

if TYPE_CHECKING:
    from inference.protocol import Constraint
    from inference.sampling.vocabulary import Vocabulary

AnyConstraint: TypeAlias = "Constraint | CallGrammar"
K = TypeVar("K")
V = TypeVar("V")

_MAX_CACHED = 64
_MAX_CHECKED = 1024
_MAX_SECONDS = 20  # of wall time; the effective limit is on CPU time


class Grammar:
    """A compiled constraint of one payer. All its requests share the automaton, which grows during answers.

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
    """Compiles constraints, on any thread, and caches the latest ones.

    Each payer has its own grammars, so that only its own answers can drive an automaton over its limits. All
    payers share the check of a constraint in another process, the slowest part.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._compiling = threading.Lock()
        """Held during a compilation, so that at most one child process runs."""
        self._checked: OrderedDict[AnyConstraint, InvalidSchemaError | None] = OrderedDict()
        self._cache: OrderedDict[tuple[str, AnyConstraint], Grammar] = OrderedDict()

    def cached(self, constraint: AnyConstraint, payer: str = "") -> Grammar | None:
        """The payer's grammar of a constraint that was compiled lately, at once. Raises as `compile`."""
        with self._lock:
            if (refused := self._checked.get(constraint)) is not None:
                raise type(refused)(refused.where, refused.reason)
            found = self._cache.get((payer, constraint))
            if found is None or found.is_exhausted:
                return None
            self._cache.move_to_end((payer, constraint))
            return found

    def compile(self, constraint: AnyConstraint, payer: str = "") -> Grammar:
        """Compile a constraint, which takes up to a second of CPU time in another process unless it was
        checked lately, and up to as much here.

        Raises `InvalidSchemaError`, `InvalidToolSchemaError`, `UnsupportedModelError`.
        """
        with self._compiling:
            if (cached := self.cached(constraint, payer)) is not None:
                return cached
            with self._lock:
                is_checked = constraint in self._checked
            found = self._compile(constraint, is_checked=is_checked)
            refused = found if isinstance(found, InvalidSchemaError) else None
            with self._lock:
                _keep(self._checked, constraint, refused, _MAX_CHECKED)
                if isinstance(found, Grammar):
                    _keep(self._cache, (payer, constraint), found, _MAX_CACHED)
                    return found
        raise type(found)(found.where, found.reason)

    def _compile(self, constraint: AnyConstraint, *, is_checked: bool) -> Grammar | InvalidSchemaError:
        message = msgspec.to_builtins(constraint)
        refused = None if is_checked else _check(message)
        if refused is not None:
            return _refusal(constraint, *refused)
        grammar = grammar_check.grammar_of(message)
        matcher = LLMatcher(self._vocabulary.trie, grammar, log_level=0, limits=grammar_check.limits())
        matcher.compute_bitmask()  # computes the first states here rather than on the engine's thread
        if matcher.is_error():
            return _refusal(constraint, None, matcher.get_error().partition("\n")[0])
        return Grammar(matcher, self._vocabulary)


def _keep(cache: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > most:
        cache.popitem(last=False)


def _refusal(constraint: AnyConstraint, where: str | None, reason: str) -> InvalidSchemaError:
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
