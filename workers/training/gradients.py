"""Sketched per-row gradients of the loss with respect to LoRA's B matrices, with one backward pass per batch.

A LoRA module computes y = W x + s B A x, so a row's loss has the gradient dB = s sum over tokens dy (A x)^T.
Hooks see both factors in the batch's forward and backward pass. Gradients of A are left out: they are small
where B is. So are tokens of the chat template's preamble after a row's first token; their keys and values are
computed once for all rows. No weight requires gradients, and the adapter is merged into W for the pass, so
that a module costs one product and not three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from peft.tuners.lora import LoraLayer
from torch.nn import functional

from workers.training.evaluate import batches_by_length, predict
from workers.training.packing import row_indices
from workers.training.preamble import compute_preamble
from workers.training.progress import ProgressReporter, after_each_layer
from workers.training.rows import computed_positions
from workers.training.sketch import PartSketch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from workers.training.preamble import Preamble
    from workers.training.progress import Emit
    from workers.training.rows import Example
    from workers.training.sketch import CountSketch

BATCH_TOKENS = 1024
"""Limits the activations of all layers, which the backward pass needs."""
_ADAPTER = "default"


def row_gradients(model: Any, rows: Sequence[Example], preamble: Sequence[int], emit: Emit) -> Tensor:
    """The `PartSketch` of each row's gradient [rows, `SKETCH_SIZE`] fp32; see `sketch_row_gradients`."""
    sketch = PartSketch(model.config.num_hidden_layers)
    found = sketch.zeros(len(rows))
    places: dict[Example, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row, []).append(place)
    for batch, sketched in sketch_row_gradients(model, rows, preamble, sketch, emit):
        for row, each in zip(batch, sketched, strict=True):
            found[places[row]] = each
    return found


def sketch_row_gradients(
    model: Any, examples: Sequence[Example], preamble: Sequence[int], sketch: CountSketch, emit: Emit
) -> Iterator[tuple[Sequence[Example], Tensor]]:
    """Yield (rows, their sketched gradients [rows, size] fp32) per batch, the longest rows first.

    `model` is a PEFT model, whose weights are restored afterwards. The loss of a row is the sum over its
    trained tokens, so a long answer weighs more, as in training. `preamble` has the token ids at the start of
    every conversation; no gradients are taken of those after the first. Deterministic for the same build,
    threads and rows.
    """
    progress = ProgressReporter(emit, "gradients", len(examples))
    model.eval()
    with (
        _GradientHooks(model, sketch) as hooks,
        model.disable_adapter(),
        after_each_layer(model, progress.still_working),
    ):
        cached = compute_preamble(model, preamble)
        for rows in batches_by_length(examples, BATCH_TOKENS, preamble):
            yield rows, hooks.sketches(rows, cached)
            progress.advance(len(rows))


def _backward(model: Any, rows: Sequence[Example], preamble: Preamble | None) -> None:
    """Backpropagate the cross entropy in nats, summed over all trained tokens.

    Its gradient at the states is W^T (p - y), W being the head, so the loss itself is not computed.
    """
    predicted = predict(model, rows, preamble)
    head = model.get_output_embeddings()
    with torch.no_grad():
        errors = head(predicted.states).softmax(dim=1)
        errors[torch.arange(len(errors)), predicted.labels] -= 1
        gradient = errors @ head.weight
    predicted.states.backward(gradient)  # type: ignore[no-untyped-call]


class _GradientHooks:
    """Merges the adapter into the base's weights, captures x and dy, and adds dB to the rows' sums."""

    def __init__(self, model: Any, sketch: CountSketch) -> None:
        self._model = model
        self._sketch = sketch
        self._sums = sketch.zeros(0)
        self._indices = self._is_real = torch.empty(0)
        self._originals: list[tuple[Any, Tensor]] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        try:
            for name, layer in self._model.named_modules():
                if isinstance(layer, LoraLayer):
                    self._attach(name, layer)
        except BaseException:
            self.__exit__()  # other adapters share the base's weights
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        for weight, original in self._originals:
            weight.data = original

    def sketches(self, rows: Sequence[Example], preamble: Preamble | None) -> Tensor:
        """[rows, size] fp32."""
        omitted = preamble.token_ids if preamble else ()
        counts = [len(computed_positions(row, omitted)) for row in rows]
        lengths = torch.tensor(counts, device=self._model.device)
        self._indices, self._is_real = row_indices(lengths)
        self._sums = self._sketch.zeros(len(rows))
        _backward(self._model, rows, preamble)
        return self._sums

    @torch.no_grad()
    def _attach(self, name: str, layer: Any) -> None:
        weight = layer.base_layer.weight
        inner = layer.lora_A[_ADAPTER].weight.to(weight.dtype)
        updated = weight.float() + layer.get_delta_weight(_ADAPTER).float()
        magnitude = None
        if layer.use_dora[_ADAPTER]:  # y = m / |W + s B A| (W + s B A) x; the norm counts as a constant
            magnitude = layer.lora_magnitude_vector[_ADAPTER].weight / updated.norm(dim=1)
            updated *= magnitude.unsqueeze(1)
        self._originals.append((weight, weight.data))
        weight.data = updated.to(weight.dtype)
        scaling = layer.scaling[_ADAPTER]

        def add(shrunk: Tensor, gradient: Tensor) -> None:
            self._add(name, shrunk, gradient if magnitude is None else gradient * magnitude)

        def hook(_module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            if not torch.is_grad_enabled():  # the preamble's pass
                return
            output.requires_grad_()  # no weight requires gradients, so the first layer's output must
            shrunk = functional.linear(inputs[0].detach(), inner) * scaling
            output.register_hook(lambda gradient: add(shrunk, gradient))  # type: ignore[no-untyped-call]

        self._hooks.append(layer.base_layer.register_forward_hook(hook))

    def _add(self, name: str, inner: Tensor, outer: Tensor) -> None:
        """`inner` [1, tokens, rank] is s A x, `outer` [1, tokens, out] dy."""
        by_row = self._by_row(inner) * self._is_real.unsqueeze(2)
        products = by_row.transpose(1, 2) @ self._by_row(outer.to(inner.dtype))  # [rows, rank, out]
        self._sketch.add(self._sums, name, products.float())

    def _by_row(self, tokens: Tensor) -> Tensor:
        """[rows, longest, size] of [1, tokens, size]."""
        selected = tokens[0].index_select(0, self._indices.flatten())
        return selected.view(*self._indices.shape, tokens.shape[2])
