"""Scores contributions by the gradient of an answer at an adapter's checkpoint, method `GRADIENT_METHOD`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load
from transformers import AutoModelForCausalLM

from backend.domain.adapter_files import CONFIG_FILE
from backend.domain.attribution import CHECKPOINT_FILE
from backend.domain.errors import InvalidInput
from backend.domain.training import LINEAR_LAYERS
from backend.ports.attribution import Probe
from backend.services.answers.attribution import Ridge
from backend.services.answers.attribution_index import Indices
from inference.errors import InferenceError
from inference.lora.header import max_header_bytes
from inference.tokenization.load import load_tokenizer
from inference.tokenization.tokenizer import ChatTokenizer
from workers.training.fit import compute_dtype
from workers.training.gradients import sketch_row_gradients
from workers.training.index import load_adapter
from workers.training.packing import ATTENTION
from workers.training.rows import IGNORED, Example, preamble_ids
from workers.training.sketch import PartSketch
from workers.training.tensors import is_finite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from backend.ports.gradients import GradientRequest

MAX_RANK = 256


@dataclass(frozen=True, slots=True)
class Answer:
    """Token ids of a prompt and of the choices that answered it."""

    prompt: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]


class Scorer:
    """One base model; the adapters' checkpoints are loaded as they are needed. Not thread-safe."""

    def __init__(self, base_folder: Path) -> None:
        self._tokenizer = ChatTokenizer(base_folder)
        tokenizer = load_tokenizer(base_folder)
        self._preamble = preamble_ids(tokenizer)
        auto: Any = AutoModelForCausalLM
        self._base = auto.from_pretrained(base_folder, dtype=compute_dtype(), local_files_only=True)
        self._base.set_attn_implementation(ATTENTION)
        self._base.config.use_cache = False
        self._indices = Indices(with_gradients=True)
        self._ridge = Ridge(self._indices, "gradient")
        self._sketch = PartSketch(self._base.config.num_hidden_layers)

    def answer(self, request: GradientRequest) -> Answer:
        """Errors: `InvalidInput` if the chat template refuses the prompt."""
        prompt = (request.messages, request.prompt, request.tools, request.reasoning_effort)
        try:
            return Answer(tuple(self._tokenizer.encode_prompt(*prompt)), request.choices)
        except InferenceError as error:
            raise InvalidInput(str(error)) from error

    def scores(self, folder: Path, answers: Sequence[Answer]) -> list[Mapping[int, float]]:
        """For each answer the score of every contribution in the folder's index, by position.

        Errors: `InvalidInput` if the folder has no index with gradients, or no checkpoint that fits it.
        """
        index = self._indices.get(folder)
        if index is None or index.gradient is None:
            raise InvalidInput(f"the index of {folder.name} has no gradients")
        positions = index.positions.tolist()
        found = []
        for gradient in self._gradients(folder, answers):
            scores = self._ridge.scores(folder, positions, Probe(gradient=gradient.tolist()))
            if scores is None:
                raise InvalidInput(f"the index of {folder.name} has gradients of another size")
            if not all(map(math.isfinite, scores.values())):
                raise InvalidInput(
                    f"the checkpoint or the index of {folder.name} leaves the range of numbers"
                )
            found.append(scores)
        return found

    def _gradients(self, folder: Path, answers: Sequence[Answer]) -> torch.Tensor:
        """Sketched gradients [answers, sketch size] of the loss summed over an answer's choices."""
        examples = [
            _example(number, answer.prompt, choice)
            for number, answer in enumerate(answers)
            for choice in answer.choices
        ]
        model = _adapter_model(self._base, folder)
        try:
            sums = self._sketch.zeros(len(answers))
            batches = sketch_row_gradients(model, examples, self._preamble, self._sketch, lambda *_: None)
            for rows, sketched in batches:
                sums.index_add_(0, torch.tensor([row.contribution for row in rows]), sketched)
            return sums
        finally:
            model.unload()


def _example(number: int, prompt: tuple[int, ...], choice: tuple[int, ...]) -> Example:
    """A row whose answer alone has loss; `number` is its answer's, in the place of a contribution's."""
    labels = (*[IGNORED] * len(prompt), *choice)
    return Example(number, "", (*prompt, *choice), labels)


def _adapter_model(base: Any, folder: Path) -> Any:
    """A PEFT model of `base` with the weights of the folder's checkpoint. Errors: `InvalidInput`."""
    config = _lora_config(folder)
    try:
        model = get_peft_model(base, config)
        load_adapter(model, _read_checkpoint(folder, get_peft_model_state_dict(model)))
    except BaseException:
        _remove_adapter(base)
        raise
    return model


def _remove_adapter(base: Any) -> None:
    """Remove the adapter's layers, also where not all of them were added."""
    for name, layer in list(base.named_modules()):
        if isinstance(layer, LoraLayer):
            parent, _, child = name.rpartition(".")
            setattr(base.get_submodule(parent), child, layer.base_layer)
    if hasattr(base, "peft_config"):
        del base.peft_config


def _read_checkpoint(folder: Path, expected: Mapping[str, torch.Tensor]) -> bytes:
    """The checkpoint, if it has finite tensors of the expected shapes. Errors: `InvalidInput`."""
    most = 4 * sum(weight.numel() for weight in expected.values()) + max_header_bytes(len(expected))
    try:
        with (folder / CHECKPOINT_FILE).open("rb") as file:
            checkpoint = file.read(most + 1)
        weights = load(checkpoint) if len(checkpoint) <= most else {}
    except (OSError, SafetensorError, KeyError) as error:  # KeyError: a type that torch lacks
        raise InvalidInput(f"the checkpoint of {folder.name} cannot be read: {error}") from error
    found, wanted = ({name: one.shape for name, one in each.items()} for each in (weights, expected))
    if found != wanted or not all(map(is_finite, weights.values())):
        raise InvalidInput(f"the checkpoint of {folder.name} does not fit the adapter's configuration")
    return checkpoint


def _lora_config(folder: Path) -> LoraConfig:
    """The configuration of an adapter that the engine serves. Errors: `InvalidInput`."""
    try:
        stated = json.loads((folder / CONFIG_FILE).read_bytes())
        rank, alpha, targets = int(stated["r"]), float(stated["lora_alpha"]), list(stated["target_modules"])
        use_rslora, use_dora = bool(stated.get("use_rslora")), bool(stated.get("use_dora"))
        is_plain = not any(stated.get(name) for name in ("rank_pattern", "alpha_pattern", "modules_to_save"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"the configuration of {folder.name} cannot be read: {error!r}") from error
    if not (is_plain and 1 <= rank <= MAX_RANK and set(targets) <= set(LINEAR_LAYERS)):
        raise InvalidInput(f"the configuration of {folder.name} is not supported")
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # fractions work
        use_rslora=use_rslora,
        use_dora=use_dora,
        target_modules=targets,
    )
