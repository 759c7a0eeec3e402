from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from backend.api.schemas.sampling import MAX_TOP_LOGPROBS, AnswerFields, Text
from backend.ports.engine import Sampling

DEFAULT_MAX_TOKENS = 16
"""OpenAI's, of this endpoint."""

NonEmpty = Annotated[Text, Field(min_length=1)]


class CompletionRequest(AnswerFields):
    """OpenAI's request, as far as we keep it. `prompt` is one text, alone or in a list; token ids and several
    prompts are refused. `logprobs`: how many alternatives to name beside each token.
    """

    prompt: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1, max_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @property
    def text(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    def sampling(self) -> Sampling:
        max_tokens = self.max_tokens or DEFAULT_MAX_TOKENS
        return replace(super().sampling(), max_tokens=max_tokens, logprobs=self.logprobs)
