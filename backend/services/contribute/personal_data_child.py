"""The child of `personal_data`: finds personal data in texts.

A question is a series of messages `[line, {field: text}]` and `END`. The answer is a series of messages
`[line, field, kind, masked]`, one for each field and kind, and `END`. No text leaves the process unmasked.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

from backend.processes.parent import Parent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import ModuleType

END = None
"""The message that ends a question or an answer."""
MEMORY_BYTES = 1 << 30
CPU_SECONDS = 3600
MIN_SCORE = 0.4
"""What is found by its form alone, as phone numbers are, has 0.4; what is hardly a form has less."""
UNUSED = frozenset({"torch", "transformers", "tensorflow", "jax", "cupy", "mxnet", "stanza", "gliner"})
"""What spaCy and presidio would load because it is there."""
SHOWN = 2
"""Characters of a value that are shown at either end, of long ones."""


class _Absent(MetaPathFinder):
    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> None:
        if name.partition(".")[0] in UNUSED:
            raise ModuleNotFoundError(name)


@dataclass(frozen=True, slots=True)
class Gated:
    """A recogniser, and what every text has that it finds something in: looking for that costs far less."""

    gate: re.Pattern[str]
    recogniser: Any


def digits(least: int) -> str:
    """Pattern of so many. In no number of any kind do more than four characters stand between two of them."""
    return rf"\d(?:\D{{0,4}}\d){{{least - 1}}}"


TELEPHONE = re.compile(rf"[+\uFF0B]\D{{0,9}}{digits(6)}|{digits(7)}")
"""A number has a plus, be it of full width, and six digits with its country's code; or is dialled in North
America, with seven, or from there, with nine: 011, and those six.
"""


def recognisers() -> list[Gated]:
    """Of strict forms and of those with a checksum; telephone numbers: international form, or the USA's."""
    import tldextract

    # Its list of domains as it was released: else it asks the net.
    offline: Any = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())
    tldextract.extract = offline
    from presidio_analyzer import predefined_recognizers as known

    return [
        Gated(re.compile("@"), known.EmailRecognizer()),
        Gated(re.compile(digits(13)), known.CreditCardRecognizer()),
        Gated(re.compile(r"(?i)[a-z]{2}[ -]?\d{2}"), known.IbanRecognizer()),
        Gated(re.compile(r"(?i)[13][a-z0-9]{25}"), known.CryptoRecognizer()),
        Gated(re.compile(digits(9)), known.UsSsnRecognizer()),
        Gated(re.compile(digits(10)), known.NhsRecognizer()),
        Gated(re.compile(digits(6)), known.UkNinoRecognizer()),
        Gated(re.compile(r"\d\.\d{1,3}\.\d|:[0-9A-Fa-f]{0,4}:"), known.IpRecognizer()),
        Gated(TELEPHONE, known.PhoneRecognizer(supported_regions=("US",))),
    ]


def findings(known: Iterable[Gated], text: str) -> Iterator[tuple[str, str]]:
    """(kind, masked) of each kind that the text holds, with the first of it."""
    for one in known:
        if not one.gate.search(text):
            continue
        found = one.recogniser.analyze(text, one.recogniser.supported_entities, None)
        certain = [result for result in found if result.score >= MIN_SCORE]
        if certain:
            first = min(certain, key=lambda result: result.start)
            yield first.entity_type, masked(text[first.start : first.end])


def masked(value: str) -> str:
    """`fdrake@acm.org` -> `fd...rg`."""
    if len(value) < 4 * SHOWN:
        return "..."
    return f"{value[:SHOWN]}...{value[-SHOWN:]}"


def answer(known: Sequence[Gated], question: Iterable[tuple[int, Mapping[str, str]]]) -> Iterator[list[Any]]:
    for line, texts in question:
        for field, text in texts.items():
            for kind, value in findings(known, text):
                yield [line, field, kind, value]


def main() -> None:
    parent = Parent(memory_bytes=MEMORY_BYTES, cpu_seconds=CPU_SECONDS)
    sys.meta_path.insert(0, _Absent())
    known = recognisers()
    while True:
        question = list(iter(parent.receive, END))
        parent.send(*answer(known, question), END)


if __name__ == "__main__":
    main()
