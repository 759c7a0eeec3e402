from __future__ import annotations

from typing import Annotated

from pydantic import Field

from backend.api.schemas.common import Items
from backend.api.schemas.sampling import AnswerFields, Text
from inference.protocol import MAX_TOP_LOGPROBS, Generate

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default of this endpoint."""

NonEmpty = Annotated[Text, Field(min_length=1)]


class CompletionRequest(AnswerFields):
    """OpenAI's completion request, with the supported parameters. `prompt`: one text, as a string or a list
    of one; token ids and several prompts are rejected. `logprobs`: number of alternatives to return for each
    token.
    """

    prompt: NonEmpty | Annotated[Items[NonEmpty], Field(min_length=1, max_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    def to_generate(self, default_max_tokens: int) -> Generate:  # noqa: ARG002 - OpenAI sets this one's default
        text = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        max_tokens = self.max_tokens or DEFAULT_MAX_TOKENS
        return Generate(
            "", prompt=text, sampling=self._sampling(max_tokens=max_tokens, logprobs=self.logprobs)
        )
