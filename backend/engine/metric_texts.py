"""Metrics of engines in Prometheus' text format: checked, and several texts as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from backend.ports.engine import MalformedMetrics

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping


EXCERPT_CHARACTERS = 60


def checked(text: str, server: str) -> str:
    """The text, if it can be parsed. Errors: `MalformedMetrics`."""
    if _is_readable(text):
        return text
    lines = enumerate(text.splitlines(), 1)
    wrong = next(((number, line) for number, line in lines if not _is_readable(line)), None)
    where = "" if wrong is None else f"; line {wrong[0]} is {wrong[1][:EXCERPT_CHARACTERS]!r}"
    raise MalformedMetrics(f"The metrics of {server} are not in Prometheus' text format{where}.")


def total(text: str, names: Collection[str]) -> float | None:
    """Sum of all samples with these names; None if there is none."""
    families = text_string_to_metric_families(text)
    found = [sample.value for family in families for sample in family.samples if sample.name in names]
    return sum(found) if found else None


def _is_readable(text: str) -> bool:
    try:
        for _ in text_string_to_metric_families(text):
            pass
    except ValueError:
        return False
    return True


class _Merged(Collector):
    def __init__(self, families: Mapping[str, Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families.values()


def merge(texts: Mapping[str, str], label: str) -> str:
    """One text in Prometheus' format from several, whose names become the values of `label`: a text may name
    a metric once only.
    """
    families: dict[str, Metric] = {}
    for name, text in texts.items():
        for family in text_string_to_metric_families(text):
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                merged.add_sample(sample.name, {**sample.labels, label: name}, sample.value)
    registry = CollectorRegistry()
    registry.register(_Merged(families))
    return generate_latest(registry).decode()
