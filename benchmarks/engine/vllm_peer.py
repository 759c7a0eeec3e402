"""vLLM's CPU build as a contestant. Runs in its own environment, see `benchmarks.peers`."""

from __future__ import annotations

import argparse
import zlib
from typing import Any

from benchmarks.engine.measure import Measurement, TokenClock
from benchmarks.engine.peer import reserve_stdout, serve
from benchmarks.engine.workload import NUM_PROMPTS, Batch


class VllmPeer:
    """Runs workloads on one engine in this process, driven step by step like ours."""

    def __init__(self, model: str, *, has_lora: bool, is_eager: bool) -> None:
        from vllm import LLM

        lora = {"enable_lora": True, "max_loras": NUM_PROMPTS, "max_lora_rank": 8} if has_lora else {}
        self._engine: Any = LLM(
            model=model,
            dtype="bfloat16",
            enforce_eager=is_eager,
            max_model_len=8192,
            max_num_seqs=NUM_PROMPTS,
            max_num_batched_tokens=2048,
            enable_prefix_caching=False,  # no two prompts share a prefix
            **lora,
        ).llm_engine

    def batch(self, **fields: Any) -> Measurement:
        workload = Batch(**fields)
        clock = TokenClock()
        for number, (prompt, folder) in enumerate(zip(workload.prompts, workload.adapters, strict=True)):
            clock.submit(str(number))
            self._engine.add_request(
                str(number),
                {"prompt_token_ids": prompt},
                _sampling(workload.new_tokens),
                lora_request=None if folder is None else _lora(folder),
            )
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                clock.tokens(output.request_id, len(output.outputs[0].token_ids))
        return clock.measurement()


def _sampling(new_tokens: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    kind = RequestOutputKind.DELTA
    return SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, output_kind=kind)


def _lora(folder: str) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(folder, zlib.crc32(folder.encode()), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--no-lora", action="store_true", help="disable LoRA")
    parser.add_argument("--eager", action="store_true", help="disable torch.compile")
    options = parser.parse_args()
    reserve_stdout()
    import vllm

    peer = VllmPeer(options.model, has_lora=not options.no_lora, is_eager=options.eager)
    serve({"version": f"vllm {vllm.__version__}"}, {"batch": peer.batch})


if __name__ == "__main__":
    main()
