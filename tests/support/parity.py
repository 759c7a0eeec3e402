"""Kinds of adapters and a batch check for the engine's parity tests against transformers and PEFT."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from inference.protocol import AdapterBlend, BlendPart
from tests.fixtures_engine import ALL_LINEAR, Oracle, greedy, make_adapter, run_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from inference.engine import Engine
    from inference.protocol import AdapterRef, Generate
    from tests.fixtures_engine import AnyAdapter

ATTENTION, MLP = ALL_LINEAR[:4], ALL_LINEAR[4:]

# Options of `make_adapter` by name. Fused projections are hit whole, in part, and not at all.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"rank": 4},
    "rank one": {"rank": 1},
    "rslora": {"rank": 6, "use_rslora": True},
    "attention": {"rank": 5, "targets": ATTENTION},
    "mlp": {"rank": 3, "targets": MLP},
    "keys alone": {"rank": 2, "targets": ("k_proj",)},
    "values and up": {"rank": 7, "targets": ("v_proj", "up_proj"), "lora_alpha": 3},
    "one layer": {"rank": 4, "layers_to_transform": [1]},
    "rank pattern": {"rank": 2, "rank_pattern": {"q_proj": 5, "layers.1.mlp.down_proj": 3, "v_proj": 1}},
    "alpha pattern": {"rank": 3, "alpha_pattern": {r"^model.layers.0.mlp.up_proj$": 11, "o_proj": 1}},
    "both patterns": {
        "rank": 4,
        "use_rslora": True,
        "rank_pattern": {"gate_proj": 2, r"self_attn.\w_proj": 6},
        "alpha_pattern": {"gate_proj": 9},
    },
    "dora": {"rank": 4, "use_dora": True},
    "dora on some": {"rank": 3, "targets": ("q_proj", "v_proj", "down_proj"), "use_dora": True},
    "dora rslora": {
        "rank": 2,
        "use_dora": True,
        "use_rslora": True,
        "layers_to_transform": [0],
        "rank_pattern": {"k_proj": 5},
    },
}


class ForgetfulOracle(Oracle):
    """One reference model in memory at a time, for models of a real size."""

    def check_greedy(self, *arguments: Any) -> None:
        self._models.clear()
        super().check_greedy(*arguments)


def make_kinds(root: Path, model: Path, names: Sequence[str] = tuple(KINDS)) -> dict[str, AdapterRef]:
    return {
        name: make_adapter(root / name.replace(" ", "_"), model, seed=seed, **KINDS[name])
        for seed, name in enumerate(names)
    }


def blend(*parts: tuple[AdapterRef, float]) -> AdapterBlend:
    return AdapterBlend(tuple(BlendPart(ref, weight) for ref, weight in parts))


def prompts_of(lengths: Sequence[int], seed: int = 0) -> dict[str, list[int]]:
    """Random token ids, none special; keyed "0", "1", ..."""
    rng = random.Random(seed)
    return {str(i): [rng.randrange(5, 260) for _ in range(n)] for i, n in enumerate(lengths)}


def request(key: str, adapter: AnyAdapter, **rest: Any) -> Generate:
    """A greedy request under an adapter, a blend, or neither."""
    return greedy(key, **{"blend" if isinstance(adapter, AdapterBlend) else "adapter": adapter}, **rest)


def check_batch(
    engine: Engine,
    oracle: Oracle,
    prompts: Mapping[str, Sequence[int]],
    adapters: Sequence[AnyAdapter],
    max_tokens: int = 12,
) -> None:
    """Run all prompts in one batch, prompt i with adapter i, and compare each with its reference."""
    chosen = {key: adapters[i % len(adapters)] for i, key in enumerate(prompts)}
    commands = [request(key, chosen[key], max_tokens=max_tokens) for key in prompts]
    answers = run_all(engine, *commands, prompts=prompts)
    for key, prompt in prompts.items():
        assert answers[key].error is None, answers[key].error
        assert len(answers[key].token_ids) == max_tokens
        oracle.check_greedy(prompt, answers[key].token_ids, chosen[key])
