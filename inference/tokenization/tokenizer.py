"""The model's tokenizer and chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from inference.errors import InvalidRequestError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inference.protocol import EmbedItem, Message


class ChatTokenizer:
    """Renders chats to token ids and token ids to text."""

    def __init__(self, folder: Path) -> None:
        """Raises `ModelNotFoundError` when the folder holds no tokenizer."""
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ModelNotFoundError(f"{folder} holds no tokenizer: {error}") from error

        # The underlying object of the tokenizers library is stateless, so several threads may use it.
        self._backend: Any = self._tokenizer.backend_tokenizer

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The end-of-sequence token; empty if the tokenizer has none."""
        token_id = cast("int | None", self._tokenizer.eos_token_id)
        return frozenset() if token_id is None else frozenset({token_id})

    def to_json(self) -> str:
        """The content of a `tokenizer.json`."""
        return cast("str", self._backend.to_str())

    def encode_prompt(self, messages: Sequence[Message], prompt: str | None) -> list[int]:
        """Token ids of a chat, ready for the assistant's turn, or of a raw prompt.

        Raises `InvalidRequestError` unless exactly one is given, or if the template refuses the chat.
        """
        if (prompt is None) == (not messages):
            raise InvalidRequestError("give either messages or a prompt")
        token_ids = self._encode_chat(messages) if prompt is None else self._encode(prompt, is_start=True)
        if not token_ids:
            raise InvalidRequestError("the prompt is empty")
        return token_ids

    def encode_item(self, item: EmbedItem) -> tuple[list[int], list[int]]:
        """Token ids of prompt and answer, as in generation: a completed turn ends with EOS."""
        prompt = self.encode_prompt(item.messages, item.prompt)
        if item.completion is None:
            return prompt, []
        return prompt, [*self._encode(item.completion, is_start=False), *self.eos_token_ids]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids`, without special tokens."""
        return cast("str", self._backend.decode(list(token_ids), skip_special_tokens=True))

    def _encode_chat(self, messages: Sequence[Message]) -> list[int]:
        from jinja2 import TemplateError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            rendered = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except (TemplateError, ValueError) as error:
            raise InvalidRequestError(f"the chat template refuses these messages: {error}") from error
        return self._encode(rendered, is_start=False)

    def _encode(self, text: str, *, is_start: bool) -> list[int]:
        return cast("list[int]", self._backend.encode(text, add_special_tokens=is_start).ids)
