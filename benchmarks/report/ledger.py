"""Renders the cost of receipts for `docs/benchmarks.md` from the JSON of `python -m benchmarks.ledger`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.domain.attribution import DISTILLED_METHOD
from benchmarks.ledger.gas import Market, claim_dollars, gas_per_thousand, share_of_revenue
from benchmarks.report.origin import commit_text, cpu_text
from tools.markdown import table

if TYPE_CHECKING:
    from collections.abc import Mapping

GAS = Path(__file__).resolve().parents[2] / "tests" / "snapshots" / "gas.json"
GWEI = (0.001, 0.01, 0.1, 1.0, 10.0)
ANSWERS_PER_BATCH = (1_000, 10_000, 25_000)
"""At most 256 payers fit a batch."""
FIGURES = {
    "receipts": "receipts, compared with neither",
    "attribution": "attribution, compared with receipts alone",
    "ledger": "both, compared with neither",
}


def ledger_section(report: Mapping[str, Any] | None) -> str:
    """The section as Markdown. Without a report it says that the times are missing; gas is always there."""
    parts = ["## Cost of receipts", ""]
    parts += ["Not yet measured on an idle machine.", ""] if report is None else _times(report)
    return "\n".join([*parts, *_gas()])


def _times(report: Mapping[str, Any]) -> list[str]:
    size, machine, ranges = report["size"], report["machine"], report["ranges"]
    text = (
        f"Measured by `python -m benchmarks.ledger --json` on {cpu_text(machine)} with "
        f"{machine['num_cores']} cores, {commit_text(report)}, {report['finished_at']}. "
        f"{size['num_clients']} clients stream answers of "
        f"{size['num_tokens']} tokens by one adapter, {size['num_answers']} per run, {size['repeats']} "
        f"alternating repeats; median and range. {_starts(report)} Without receipts, the API reserves, signs "
        "and stores nothing. Without attribution, the adapter's version has no snapshot, and the engine has "
        "no probe. "
        f"With it, answers are attributed to {report['num_contributors']} contributors by "
        f"`{report['method']}`{_unlike_default(report['method'])}: the engine's vectors, their way to the "
        "API, scores, and the shares in the receipt. What [attribution.md](attribution.md#measured-accuracy) "
        "states as the throughput lost is the engine's processor time for the vectors alone."
    )
    rows = [
        [row["name"], *(_spread(row[name], digits) for name, digits in _CELLS.items())]
        for row in report["rows"]
    ]
    head = ["enabled", "tokens/s", "first token p50 (ms)", "first token p99 (ms)", "CPU of others"]
    added = [
        [
            text,
            _spread(ranges[f"{name}_tokens_s_ratio"], 3),
            _spread(ranges[f"{name}_ttft_added_ms"], 1),
        ]
        for name, text in FIGURES.items()
    ]
    compared = table(["", "tokens/s, ratio", "added to first token p50 (ms)"], added)
    return [text, "", *table(head, rows), "", *compared, ""]


def _starts(report: Mapping[str, Any]) -> str:
    """Earlier versions, whose reports have no commit, timed the first answers of the clients."""
    verb = "leave out" if "commit" in report else "include"
    return f"Times to the first token {verb} the first answer of each client, which all ask for at once."


def _unlike_default(method: str) -> str:
    return "" if method == DISTILLED_METHOD else f" (`{DISTILLED_METHOD}`, the default, is not measured yet)"


_CELLS = {"tokens_per_second": 0, "ttft_p50_ms": 1, "ttft_p99_ms": 1, "other_cpu": 2}


def _spread(value: Mapping[str, float], digits: int) -> str:
    return f"{value['median']:,.{digits}f} ({value['min']:,.{digits}f} to {value['max']:,.{digits}f})"


def _gas() -> list[str]:
    gas, market = json.loads(GAS.read_text()), Market()
    used = {number: gas_per_thousand(gas, number, market) for number in ANSWERS_PER_BATCH}
    text = (
        f"Gas (`make gas`) as a share of revenue. 1,000 answers of {market.prompt_tokens:,} + "
        f"{market.completion_tokens} tokens at the base model's prices of {market.prompt_price:.2f} and "
        f"{market.completion_price:.2f} per million earn {market.revenue:.2f} dollars. A batch consists of "
        "one commit, one finalisation, and one voucher by session key per payer, with "
        f"{market.answers_per_payer} answers per payer. An ether is {market.dollars_per_ether:,.0f} dollars. "
        "A claim is paid by its sender and costs the same for any amount: the last column."
    )
    rows = [
        [
            f"{gwei:g}",
            *(f"{share_of_revenue(each, gwei, market):,.2%}" for each in used.values()),
            f"{claim_dollars(gas, gwei, market):.4f}",
        ]
        for gwei in GWEI
    ]
    heads = [f"batches of {number:,} answers: {each:,.0f} gas per 1,000" for number, each in used.items()]
    return [text, "", *table(["gwei per gas", *heads, "a claim, dollars"], rows), ""]
