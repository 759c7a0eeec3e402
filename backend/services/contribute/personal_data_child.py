"""Child process of `personal_data`: finds personal data in texts.

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
"""Matches by form only, such as phone numbers, score 0.4; weak patterns score less."""
UNUSED = frozenset({"torch", "transformers", "tensorflow", "jax", "cupy", "mxnet", "stanza", "gliner"})
"""Packages that spaCy and presidio would import if installed."""
NUM_VISIBLE = 2
"""Characters at either end of a long value that are not masked."""


class _BlockedImports(MetaPathFinder):
    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> None:
        if name.partition(".")[0] in UNUSED:
            raise ModuleNotFoundError(name)


@dataclass(frozen=True, slots=True)
class PrefilteredRecogniser:
    """A recogniser and a much cheaper pattern that every text with a finding matches."""

    prefilter: re.Pattern[str]
    recogniser: Any


def digits(least: int) -> str:
    """Pattern of at least `least` digits. At most four characters separate digits in numbers of all kinds."""
    return rf"\d(?:\D{{0,4}}\d){{{least - 1}}}"


TELEPHONE = re.compile(rf"[+\uFF0B]\D{{0,9}}{digits(6)}|{digits(7)}")
"""A number in international form has a plus, possibly full-width, and at least six digits with its country
code. One dialled in North America has at least seven; one dialled from there nine: 011, and those six.
"""


def load_recognisers() -> list[PrefilteredRecogniser]:
    """Recognisers of strict forms and forms with checksums; telephone numbers of international or US form."""
    import tldextract

    # The list of domains that was released with it: the default downloads the newest.
    offline: Any = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())
    tldextract.extract = offline
    from presidio_analyzer import predefined_recognizers as predefined

    return [
        PrefilteredRecogniser(re.compile("@"), predefined.EmailRecognizer()),
        PrefilteredRecogniser(re.compile(digits(13)), predefined.CreditCardRecognizer()),
        PrefilteredRecogniser(re.compile(r"(?i)[a-z]{2}[ -]?\d{2}"), predefined.IbanRecognizer()),
        PrefilteredRecogniser(re.compile(r"(?i)[13][a-z0-9]{25}"), predefined.CryptoRecognizer()),
        PrefilteredRecogniser(re.compile(digits(9)), predefined.UsSsnRecognizer()),
        PrefilteredRecogniser(re.compile(digits(10)), predefined.NhsRecognizer()),
        PrefilteredRecogniser(re.compile(digits(6)), predefined.UkNinoRecognizer()),
        PrefilteredRecogniser(re.compile(r"\d\.\d{1,3}\.\d|:[0-9A-Fa-f]{0,4}:"), predefined.IpRecognizer()),
        PrefilteredRecogniser(TELEPHONE, predefined.PhoneRecognizer(supported_regions=("US",))),
    ]


def findings(recognisers: Iterable[PrefilteredRecogniser], text: str) -> Iterator[tuple[str, str]]:
    """(kind, masked value) of the first finding of each kind."""
    for one in recognisers:
        if not one.prefilter.search(text):
            continue
        results = one.recogniser.analyze(text, one.recogniser.supported_entities, None)
        certain = [result for result in results if result.score >= MIN_SCORE]
        if certain:
            first = min(certain, key=lambda result: result.start)
            yield first.entity_type, mask(text[first.start : first.end])


def mask(value: str) -> str:
    """`fdrake@acm.org` -> `fd...rg`."""
    if len(value) < 4 * NUM_VISIBLE:
        return "..."
    return f"{value[:NUM_VISIBLE]}...{value[-NUM_VISIBLE:]}"


def answer(
    recognisers: Sequence[PrefilteredRecogniser], question: Iterable[tuple[int, Mapping[str, str]]]
) -> Iterator[list[Any]]:
    for line, texts in question:
        for field, text in texts.items():
            for kind, value in findings(recognisers, text):
                yield [line, field, kind, value]


def main() -> None:
    parent = Parent(memory_bytes=MEMORY_BYTES, cpu_seconds=CPU_SECONDS)
    sys.meta_path.insert(0, _BlockedImports())
    recognisers = load_recognisers()
    while True:
        question = list(iter(parent.receive, END))
        parent.send(*answer(recognisers, question), END)


if __name__ == "__main__":
    main()
