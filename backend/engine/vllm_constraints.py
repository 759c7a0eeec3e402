"""Constraints of answers by vLLM servers, checked as by our engine: keywords that cannot be enforced are
never ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput, Overloaded
from backend.ports.engine import InvalidSchema
from inference.errors import InvalidSchemaError, OverloadedError, UnsupportedModelError
from inference.sampling.grammar import GrammarCompiler
from inference.server.compilations import Compilations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference.protocol import Constraint
    from inference.sampling.vocabulary import Vocabulary


class Constraints:
    """Of one base model; its replicas share them. Payers take turns. Used from one event loop."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary, self._grammars = vocabulary, GrammarCompiler(vocabulary)
        # A thread of its own: schemas that wait must not delay receipts, which use the loop's executor.
        self._thread = ThreadPoolExecutor(1, "vllm-constraints")
        self._compilations = Compilations(self._thread)
        self._has_vocabulary = False

    async def check(self, constraint: Constraint, payer: str) -> None:
        """Errors: `InvalidSchema`, `InvalidInput` if the model has no vocabulary for it, `Overloaded`."""
        with _domain_errors():
            if self._grammars.cached(constraint, payer) is None:
                compilation = self._compilations.start(self._grammars.compile, constraint, payer)
                await asyncio.shield(compilation)  # others may wait for it

    async def read_vocabulary(self) -> None:
        """Read it now, which takes half a second, rather than on first use. Errors: `InvalidInput`."""
        if self._has_vocabulary:
            return
        with _domain_errors():
            await asyncio.get_running_loop().run_in_executor(self._thread, self._vocabulary.warm_up)
        self._has_vocabulary = True

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _domain_errors() -> Iterator[None]:
    try:
        yield
    except InvalidSchemaError as error:
        raise InvalidSchema(str(error), "response_format", {"code": error.code}) from error
    except UnsupportedModelError as error:
        raise InvalidInput(str(error), details={"code": error.code}) from error
    except OverloadedError as error:
        raise Overloaded(str(error), details={"code": error.code}) from error
