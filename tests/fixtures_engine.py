"""Tiny random checkpoints and adapters, and a reference implementation by transformers and PEFT."""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inference.config import EngineConfig
from inference.lora.files import adapter_digest
from inference.protocol import AdapterBlend, AdapterRef, Chunk, Generate, Sampling

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from inference.engine import Engine
    from inference.protocol import TokenLogprobs

AnyAdapter = AdapterRef | AdapterBlend | None  # of a request
FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "smollm3"),
    *("gemma3_text", "phi3", "mixtral", "qwen3_moe"),
)
# Of checkpoints that have their linear layers under other names, or in experts, which adapters cannot change.
_FUSED = dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv_proj")
_FUSED |= dict.fromkeys(("gate_proj", "up_proj"), "gate_up_proj")
_WITHOUT_MLP = dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "o_proj")
_SUBSTITUTES = {"phi3": _FUSED, "mixtral": _WITHOUT_MLP, "qwen3_moe": _WITHOUT_MLP}
# A window shorter than the tests' sequences, a scale that is not that of the heads' width, both kinds of
# layers; more experts than a token uses.
_SHAPES: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "sliding_window": 8,
        "query_pre_attn_scalar": 24,
        "layer_types": ["sliding_attention", "full_attention"],
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 48},
}
LOGIT_TOLERANCE = 2e-4
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EOS = "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@contextmanager
def peft_warnings_ignored() -> Iterator[None]:
    """Suppress the warnings that PEFT reads an attribute deprecated by transformers, and that tied embeddings
    complicate merging, which nothing here does.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield


def make_model(folder: Path, family: str = "llama", max_shard_size: str = "50GB", **overrides: Any) -> Path:
    """A random checkpoint with a byte-level tokenizer; two layers, hidden size 64."""
    from transformers import AutoConfig, AutoModelForCausalLM

    vocab_size = make_tokenizer(folder)
    torch.manual_seed(FAMILIES.index(family))
    shape = {
        "vocab_size": vocab_size + (family == "qwen2"),  # the library's tokenizer of Qwen2 adds a token
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "initializer_range": 0.25,
        "bos_token_id": None,
        "pad_token_id": None,
        "eos_token_id": 1,
        "tie_word_embeddings": family in {"llama", "qwen3", "gemma3_text"},
        "head_dim": 32 if family == "qwen3" else 16,
        "sliding_window": None,
        **_SHAPES.get(family, {}),
        **overrides,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape))
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or ("norm" in name and family == "gemma3_text"):
            parameter.data += torch.empty_like(parameter).normal_(std=0.2)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def make_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|pad|>", EOS, "<|system|>", "<|user|>", "<|assistant|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token="<|pad|>")
    fast.add_special_tokens({"additional_special_tokens": special[2:]})
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return len(vocabulary)


def make_adapter(
    folder: Path,
    model: Path,
    *,
    rank: int = 4,
    targets: Sequence[str] = ALL_LINEAR,
    seed: int = 0,
    save_embedding_layers: bool = False,
    **config: Any,
) -> AdapterRef:
    """A PEFT adapter with random A and B, strong enough to change greedy answers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1000 + seed)
    substitutes = _SUBSTITUTES.get(json.loads((model / "config.json").read_text())["model_type"], {})
    if substitutes:  # patterns would name layers that these checkpoints do not have
        config = {key: value for key, value in config.items() if not key.endswith("_pattern")}
    lora = LoraConfig(
        r=rank,
        target_modules=sorted({substitutes.get(target, target) for target in targets}),
        task_type="CAUSAL_LM",
        **{"lora_alpha": 2 * rank, **config},
    )
    with peft_warnings_ignored():
        peft_model = get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora)
    for name, parameter in peft_model.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= torch.empty_like(parameter).uniform_(0.5, 1.5)
        elif "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    peft_model.save_pretrained(folder, save_embedding_layers=save_embedding_layers)
    return AdapterRef(adapter_digest(folder), str(folder))


def edit_adapter(ref: AdapterRef, *, drop: Sequence[str] = (), **config: Any) -> AdapterRef:
    """Rewrite keys of an adapter's configuration."""
    path = Path(ref.path) / "adapter_config.json"
    values = {**json.loads(path.read_text()), **config}
    path.write_text(json.dumps({key: value for key, value in values.items() if key not in drop}))
    return AdapterRef(adapter_digest(Path(ref.path)), ref.path)


def rewrite_tensors(ref: AdapterRef, tensors: Mapping[str, torch.Tensor]) -> AdapterRef:
    from safetensors.torch import save_file

    save_file(dict(tensors), Path(ref.path) / "adapter_model.safetensors", metadata={"format": "pt"})
    return AdapterRef(adapter_digest(Path(ref.path)), ref.path)


def read_tensors(ref: AdapterRef) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(ref.path) / "adapter_model.safetensors")


class Oracle:
    """Reference: transformers with PEFT, in fp32, one sequence at a time."""

    def __init__(self, model: Path) -> None:
        self._path = model
        self._models: dict[str | None, Any] = {}

    @torch.inference_mode()
    def logits(
        self, token_ids: Sequence[int], adapter: AnyAdapter, num_prompt_tokens: int | None = None
    ) -> torch.Tensor:
        """[num_tokens, vocab]. An activated LoRA is active from its last invocation in the prompt on."""
        model = self._model(adapter)
        prompt, options = list(token_ids[:num_prompt_tokens]), {}
        invocation = getattr(getattr(model, "active_peft_config", None), "alora_invocation_tokens", None)
        if invocation is not None:
            starts = range(len(prompt) - len(invocation) + 1)
            start = max(start for start in starts if prompt[start : start + len(invocation)] == invocation)
            options["alora_offsets"] = [len(token_ids) - start]
        return model(torch.tensor([token_ids]), **options).logits[0]

    @torch.inference_mode()
    def hidden(self, token_ids: Sequence[int], adapter: AnyAdapter) -> torch.Tensor:
        """Final hidden states after the last norm, [num_tokens, hidden]."""
        output = self._model(adapter)(torch.tensor([token_ids]), output_hidden_states=True)
        return output.hidden_states[-1][0]

    def error(self, token_ids: Sequence[int], num_prompt_tokens: int, adapter: AnyAdapter) -> torch.Tensor:
        """Gradient of the summed loss of the answer's tokens with respect to their states, summed, [hidden],
        of the eight likeliest tokens in each place.
        """
        logits = self.logits(token_ids, adapter)[num_prompt_tokens - 1 : -1]
        top = logits.softmax(dim=1).topk(8)
        head = self._model(adapter).get_output_embeddings().weight.detach()
        expected = torch.einsum("tk,tkh->h", top.values, head[top.indices])
        return expected - head[torch.tensor(token_ids[num_prompt_tokens:])].sum(0)

    def check_greedy(
        self,
        prompt: Sequence[int],
        answer: Sequence[int],
        adapter: AnyAdapter,
        allowed: torch.Tensor | None = None,
    ) -> None:
        """Every token of `answer` is the best one, or within the tolerance of it, among those of its row in
        `allowed` [len(answer), vocab].
        """
        logits = self.logits([*prompt, *answer], adapter, len(prompt))[len(prompt) - 1 : -1]
        if allowed is not None:
            logits = logits.masked_fill(~allowed, float("-inf"))
        chosen = logits.gather(1, torch.tensor(answer).unsqueeze(1)).squeeze(1)
        assert (logits.max(dim=1).values - chosen).max() < LOGIT_TOLERANCE

    def _model(self, adapter: AnyAdapter) -> Any:
        key = None if adapter is None else adapter.digest
        if key not in self._models:
            self._models[key] = self._load(adapter).eval()
        return self._models[key]

    def base(self) -> Any:
        """The model without adapters."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self._path, dtype=torch.float32)

    def _load(self, adapter: AnyAdapter) -> Any:
        from peft import PeftModel

        model = self.base()
        if adapter is None:
            return model
        if isinstance(adapter, AdapterBlend):
            return self._add(model, adapter)
        with peft_warnings_ignored():
            return PeftModel.from_pretrained(model, adapter.path)

    def _add(self, model: Any, blend: AdapterBlend) -> Any:
        """The base with the parts' deltas in its weights, each delta as PEFT computes it."""
        weights = dict(model.named_parameters())
        for part in blend.parts:
            for name, module in self._model(part.adapter).named_modules():
                sides = (*getattr(module, "lora_A", ()), *getattr(module, "lora_embedding_A", ()))
                if "default" in sides:
                    delta = part.weight * module.get_delta_weight("default")
                    weights[f"{name.removeprefix('base_model.model.')}.weight"].data += delta
        return model


def tiny_config(model: Path, **overrides: Any) -> EngineConfig:
    defaults = {
        "dtype": "float32",
        "num_threads": 1,
        "kv_budget_bytes": 4 * 1024 * 1024,
        "num_adapter_rows": 64,
        "max_rank": 32,
        "adapter_budget_bytes": 16 * 1024 * 1024,
    }
    return EngineConfig(model, **{**defaults, **overrides})


@dataclass
class Answer:
    """All outputs of one request."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    last: Chunk | None = None
    error: Exception | None = None


def run_all(
    engine: Engine, *commands: Generate, prompts: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Answer]:
    """Run requests together until idle, checking the engine's integrity after every output."""
    for command in commands:
        engine.add(command, (prompts or {}).get(command.request_id))
    return drain(engine)


def load_adapters(engine: Engine, *adapters: AdapterRef) -> None:
    """Read adapters into the host cache, so that requests run together, however long reading takes."""
    run_all(engine, *(greedy(adapter.digest, adapter=adapter, max_tokens=1) for adapter in adapters))


def drain(engine: Engine) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for output in engine.run():
        answer = answers.setdefault(output.request_id, Answer())
        if isinstance(output, Chunk):
            answer.text += output.text
            answer.token_ids += output.token_ids
            answer.logprobs += output.logprobs or []
            answer.last = output
        else:
            answer.error = output.error
        engine.check_integrity()
    engine.check_integrity()
    return answers


def greedy(request_id: str, prompt: str = "x", *, max_tokens: int = 12, **rest: Any) -> Generate:
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return Generate(request_id, prompt=prompt, sampling=sampling, **rest)
