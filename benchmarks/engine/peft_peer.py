"""PEFT's mixed batch as a contestant: `generate(adapter_names=...)` on transformers."""

from __future__ import annotations

import argparse
from typing import Any

import peft
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from benchmarks.engine.measure import Measurement, TokenClock
from benchmarks.engine.peer import reserve_stdout, serve
from benchmarks.engine.workload import Batch


class _Clock(StoppingCriteria):
    """Called by `generate` after each step, when every sequence has one more token."""

    def __init__(self, clock: TokenClock, names: list[str]) -> None:
        self._clock = clock
        self._names = names

    def __call__(self, input_ids: torch.Tensor, *_scores: Any, **_options: Any) -> torch.Tensor:
        for name in self._names:
            self._clock.tokens(name, 1)
        return torch.zeros(len(input_ids), dtype=torch.bool)


class PeftPeer:
    """Runs workloads on one model; adapters are loaded on first use and stay loaded."""

    def __init__(self, model: str) -> None:
        base: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        base.generation_config.eos_token_id = None  # every answer has the full length
        base.generation_config.pad_token_id = 0
        self._model = base.eval()
        self._names: dict[str, str] = {}

    @torch.inference_mode()
    def batch(self, **fields: Any) -> Measurement:
        workload = Batch(**fields)
        folders = [folder for folder in workload.adapters if folder is not None]
        names = {"adapter_names": [self._load(folder) for folder in folders]} if folders else {}
        input_ids = torch.tensor(workload.prompts)
        clock, requests = TokenClock(), [str(number) for number in range(len(workload.prompts))]
        for request in requests:
            clock.submit(request)
        self._model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=workload.new_tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([_Clock(clock, requests)]),
            **names,
        )
        return clock.measurement()

    def _load(self, folder: str) -> str:
        if folder not in self._names:
            name = f"adapter{len(self._names)}"
            if self._names:
                self._model.load_adapter(folder, name)
            else:
                self._model = PeftModel.from_pretrained(self._model, folder, adapter_name=name).eval()
            self._names[folder] = name
        return self._names[folder]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    reserve_stdout()
    torch.set_num_threads(options.threads)
    peer = PeftPeer(options.model)
    version = f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    serve({"version": version}, {"batch": peer.batch})


if __name__ == "__main__":
    main()
