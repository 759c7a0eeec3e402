"""Error of each format of the weights: `python -m benchmarks.engine.quality`.

Computes the distribution of every next token of a text, this project's documents, and compares it with that
of fp32 and bf16: of the base model, and of an adapter of rank 8 with random weights. The text is read in
windows of 256 tokens, each without context from before it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from benchmarks.engine.adapters import RANK, make_adapters
from inference.config import EngineConfig
from inference.kernels.threads import set_num_threads
from inference.lora.adapter import load_adapter
from inference.lora.arena import AdapterArena
from inference.lora.blend import single_blend
from inference.lora.files import adapter_digest
from inference.lora.segments import BASE_SLOT
from inference.model.base_model import base_model_digest
from inference.model.families import read_architecture
from inference.model.loader import BaseWeights
from inference.model.sources import resolve_model
from inference.probe import ProbeSums
from inference.request import EmbeddingRequest
from inference.runner import load_runner
from inference.scheduling.step import ScheduledRequest, Step
from inference.tokenization.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from inference.runner import Runner

WORK = Path("build/bench")
TEXTS = Path(__file__).parents[2] / "docs"
WINDOW = 256  # tokens
_BLOCK_SIZE = 16
_NUM_BLOCKS = WINDOW // _BLOCK_SIZE
FORMATS: dict[str, dict[str, Any]] = {
    "fp32": {"dtype": "float32"},
    "bf16": {"dtype": "bfloat16"},
    "int8": {"dtype": "bfloat16", "quantization": "int8"},
}
REFERENCES = ("fp32", "bf16")
_SLOT = 0


@dataclass(frozen=True, slots=True)
class Contestant:
    """An engine's parts without its scheduler: every token is of `slot`."""

    runner: Runner
    slot: int


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--windows", type=int, default=16, help="windows of the text; default: 16")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--model", default="", help="folder, GGUF file or hub id; default: the bundled model")
    parser.add_argument("--model-cache", type=Path, default=Path(".loraledger/cache/models"))
    options = parser.parse_args(arguments)
    set_num_threads(options.threads)
    model = resolve_model(options.model, options.model_cache)
    text = "\n".join(path.read_text() for path in sorted(TEXTS.glob("*.md")))
    windows = spread_windows(ChatTokenizer(model).encode_prompt((), text), options.windows)
    (adapter,) = make_adapters(WORK / "adapters", model, 1)
    report = {}
    for kind, folder in (("no adapter", None), ("an adapter", adapter)):
        contestants = {name: load(model, name, options.threads, folder) for name in FORMATS}
        report[kind] = measure(contestants, windows)
    if options.json:
        sys.stdout.write(json.dumps(report) + "\n")
        return 0
    for kind, (name, figures) in ((kind, each) for kind, found in report.items() for each in found.items()):
        print(kind, name, *(f"{figure} {value:.4f}" for figure, value in figures.items()), sep="  ")
    return 0


def spread_windows(token_ids: Sequence[int], num_windows: int) -> list[Sequence[int]]:
    """`num_windows` parts of WINDOW tokens, at equal distances."""
    distance = len(token_ids) // num_windows
    return [token_ids[start : start + WINDOW] for start in range(0, num_windows * distance, distance)]


def load(model: Path, name: str, num_threads: int, adapter: Path | None = None) -> Contestant:
    """One of `FORMATS`, with an adapter for all tokens or without."""
    config = EngineConfig(model, num_threads=num_threads, **FORMATS[name])
    architecture, dtype = read_architecture(model), getattr(torch, config.dtype)
    weights = BaseWeights.open(model, architecture, dtype, config.quantization)
    arena = AdapterArena(architecture, RANK, 1, weights.adapter_dtype, config.device)
    if adapter is not None:
        loaded = load_adapter(adapter, adapter_digest(adapter), weights, base_model_digest(model), RANK)
        arena.write(single_blend(loaded), _SLOT, slice(0, RANK))
    runner = load_runner(config, weights, arena, WINDOW, 1 + _NUM_BLOCKS)
    return Contestant(runner, BASE_SLOT if adapter is None else _SLOT)


def measure(
    contestants: Mapping[str, Contestant], windows: Sequence[Sequence[int]]
) -> dict[str, dict[str, float]]:
    """For each format: perplexity, and against each of `REFERENCES` the Kullback-Leibler divergence from it,
    in nats, and the share of tokens with the same likeliest successor, both means over tokens.
    """
    sums: dict[str, defaultdict[str, float]] = {name: defaultdict(float) for name in contestants}
    for window in windows:
        found = {name: log_probabilities(each, window) for name, each in contestants.items()}
        successors = torch.tensor(window[1:]).unsqueeze(1)
        for name, rows in found.items():
            sums[name]["loss"] -= rows[:-1].gather(1, successors).sum().item()
            for reference in REFERENCES:
                expected = found[reference]
                divergence = functional.kl_div(rows, expected, log_target=True, reduction="sum")
                agreed = rows.argmax(dim=1) == expected.argmax(dim=1)
                sums[name][f"kl_{reference}"] += divergence.item()
                sums[name][f"agreement_{reference}"] += agreed.sum().item()
    num_tokens = sum(map(len, windows))
    report: dict[str, dict[str, float]] = {}
    for name, total in sums.items():
        perplexity = math.exp(total.pop("loss") / (num_tokens - len(windows)))
        report[name] = {"perplexity": perplexity} | {key: value / num_tokens for key, value in total.items()}
    return report


def log_probabilities(contestant: Contestant, token_ids: Sequence[int]) -> Tensor:
    """Of every token after each of `token_ids`, [len(token_ids), vocab] in fp32."""
    count, blocks = len(token_ids), [*range(1, 1 + _NUM_BLOCKS)]
    request = EmbeddingRequest(
        request_id="",
        token_ids=[*token_ids],
        num_prompt_tokens=count,
        adapter=None,
        probe=ProbeSums(count),
        last_token_id=None,
        block_table=blocks,
        slot=contestant.slot,
    )
    hidden = contestant.runner.forward(Step([ScheduledRequest(request, count)], fresh_blocks=blocks))
    logits = contestant.runner.logits(hidden, range(count), [contestant.slot] * count)
    return logits.float().log_softmax(dim=1)


if __name__ == "__main__":
    sys.exit(main())
