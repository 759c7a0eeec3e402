"""The consumer's questions, asked concurrently by the stock OpenAI client in streams."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import Conflict
from backend.domain.money import AMOUNT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openai import OpenAI

MAX_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Question:
    model: str
    text: str
    max_tokens: int = MAX_TOKENS


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. `charge`: micro-units, from the bill in the stream's last chunk. `receipt_id`: the id of the
    charge where the receipt follows, which leads to it.
    """

    question: Question
    text: str
    receipt_id: str
    charge: int


def ask_all(api_url: str, key: str, questions: Sequence[Question]) -> list[Answer]:
    """Ask all questions concurrently, so that the engine runs a mixed batch."""
    from openai import OpenAI

    with (
        OpenAI(base_url=f"{api_url}/v1", api_key=key, timeout=300, max_retries=0) as client,
        ThreadPoolExecutor(len(questions)) as pool,
    ):
        return list(pool.map(lambda question: _ask(client, question), questions))


def _ask(client: OpenAI, question: Question) -> Answer:
    stream = client.chat.completions.create(
        model=question.model,
        messages=[{"role": "user", "content": question.text}],
        max_completion_tokens=question.max_tokens,
        temperature=0,
        stream=True,
    )
    text, bill = "", None
    for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        bill = (chunk.model_extra or {}).get("loraledger", bill)
    if bill is None:
        raise Conflict(f"the answer to {question.text!r} came without a bill")
    number = bill.get("receipt_id") or bill["charge_id"]
    return Answer(question, text, number, AMOUNT.read(bill["charge"]))
