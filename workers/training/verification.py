"""Computes a published attribution index again and measures how far the published one is from it.

The index is a function of the base model, the adapter, the checkpoint, the rows and the generated answers.
The maps are fitted again to the scores by the published directions of the gradient, so that each part is
judged by itself.
Training is not repeated: adapter and checkpoint are taken as they are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from backend.domain.adapter_files import WEIGHTS_FILE
from backend.domain.attribution import AGREEMENTS, CHECKPOINT_FILE, NUM_KEPT_OUT, shares_from_scores
from backend.domain.attribution_checks import Draws, MethodDifference, Recomputed
from backend.domain.screening import AdapterRefused
from backend.ports.attribution import Probe
from backend.services.answers.attribution import Distilled, DistilledError, HiddenCosine, Ridge
from backend.services.answers.attribution_index import Indices
from inference.errors import InferenceError
from inference.protocol import AdapterRef
from workers.training.answers import plan_prompts
from workers.training.base import open_base
from workers.training.draws import check_draws
from workers.training.fit import lora_model
from workers.training.gradients import row_gradients
from workers.training.index import (
    ARITHMETIC,
    MAPS,
    answer_states,
    capture_gradients,
    distil_scores,
    hidden_index,
    open_engine,
)
from workers.training.influence import ERROR_RIDGE, directions
from workers.training.published import check_sizes, load_weights, read_published
from workers.training.rows import preamble_ids, read_examples
from workers.training.spec import ROWS_FILE
from workers.training.split import hold_out

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import Tensor

    from backend.services.answers.attribution import ByIndex
    from backend.services.answers.attribution_index import AttributionIndex
    from workers.training.answers import Answer, Prompt
    from workers.training.base import Base
    from workers.training.distil import Distilled as Fitted
    from workers.training.progress import Emit
    from workers.training.published import Published
    from workers.training.rows import Example
    from workers.training.spec import VerificationSpec

MAX_ROWS_COMPARED = 256
"""Rows whose answers both indices attribute, in addition to the generated answers."""
NOT_STATED = "it was computed in bf16, in which processors differ too much, or by an earlier release"


@dataclass(frozen=True, slots=True)
class _States:
    """Vectors of answers: `hidden` and `error` [answers, hidden], `gradient` [answers, sketch size], of which
    there may be only the first.
    """

    hidden: Tensor
    error: Tensor
    gradient: Tensor

    def probes(self, count: int) -> Iterator[Probe]:
        columns = (part[:count].numpy() for part in (self.hidden, self.error, self.gradient))
        return (Probe(*vectors) for vectors in zip(*columns, strict=True))


def recompute_index(spec: VerificationSpec, folder: Path, emit: Emit) -> dict[str, Any]:
    """Fields of `Recomputed`, as JSON. `folder` has the snapshot's rows, if `spec` says so.

    Errors: `MalformedFolder`; `AdapterRefused` by the engine; `UnusableRows`.
    """
    torch.set_num_threads(spec.num_threads)
    published = read_published(Path(spec.adapter_folder))
    if not published.is_reproducible:
        return asdict(Recomputed((), unchecked=NOT_STATED))
    base = open_base(spec.base_folder, spec.model_cache)
    train: list[Example] = []
    untrained: list[Example] = []
    if spec.has_rows:
        config = published.config
        examples = read_examples(folder / ROWS_FILE, base.tokenizer, config.max_length, emit, config.loss_on)
        train, held_out, unused = hold_out(examples, config.eval_fraction, config.seed)
        untrained = [*held_out, *unused]
    rows, vectors, answers, draws = _measure(base, spec, published, train, emit)
    found = Recomputed((), draws=draws)
    parts = {} if vectors is None else _directions(rows, vectors, train)
    if train:
        differing = _differing_rows(published.index, parts)
        unplanned = _num_unplanned(published.answers, plan_prompts(train, untrained))
        found = replace(found, rows=differing, num_unplanned=unplanned)
    is_comparable = train and not found.rows
    fitted = _fit_maps(published, answers, parts["error"] if is_comparable else published.index.error)
    parts |= {MAPS[method]: each.map for method, each in fitted.items()}
    found = replace(found, **_evidence(published, fitted))
    if not found.rows:
        probes = [*answers.probes(len(published.answers)), *rows.probes(MAX_ROWS_COMPARED)]
        found = replace(found, methods=_differences(published.index, parts, probes))
    return asdict(found)


def _measure(
    base: Base, spec: VerificationSpec, published: Published, train: Sequence[Example], emit: Emit
) -> tuple[_States, Tensor | None, _States, Draws]:
    """(states of the rows, with the gradients of those that are compared; the directions of all rows'
    gradients, None without rows; states of the answers; draws of the answers).
    """
    parts = {"rows": train, "answers": [answer.example for answer in published.answers]}
    folder = Path(spec.adapter_folder)
    states, end_tokens = _serve(base, spec, published, parts, emit)
    model = lora_model(base.folder, published.config, torch.float32)
    load_weights(model, folder / CHECKPOINT_FILE)
    preamble = preamble_ids(base.tokenizer)
    vectors = capture_gradients(model, train, preamble, emit) if train else None
    rows, answers = (
        _States(*pair, row_gradients(model, each, preamble, emit))
        for pair, each in zip(states, (train[:MAX_ROWS_COMPARED], parts["answers"]), strict=True)
    )
    load_weights(model, folder / WEIGHTS_FILE)
    return rows, vectors, answers, check_draws(model, published.answers, end_tokens, emit)


def _serve(
    base: Base,
    spec: VerificationSpec,
    published: Published,
    parts: Mapping[str, Sequence[Example]],
    emit: Emit,
) -> tuple[list[tuple[Tensor, Tensor]], Collection[int]]:
    """(states of each part, the tokens that end an answer). The engine and its copy of the base model are
    freed on return.
    """
    adapter = AdapterRef(spec.adapter_digest, spec.adapter_folder)
    with open_engine(base.folder, spec.num_threads, ARITHMETIC) as engine:
        check_sizes(published, engine.vocabulary.size, engine.architecture)
        try:
            states = [answer_states(engine, adapter, each, stage, emit) for stage, each in parts.items()]
        except InferenceError as error:
            raise AdapterRefused(f"the engine refuses the adapter: {error}") from error
        return states, engine.vocabulary.end_token_ids


def _directions(rows: _States, vectors: Tensor, train: Sequence[Example]) -> dict[str, Any]:
    """Fields of `AttributionIndex` that follow from the rows."""
    contributions = [row.contribution for row in train]
    hidden = hidden_index(rows.hidden, contributions)
    found = {
        "positions": hidden["positions"],
        "rows": hidden["rows"],
        "hidden": hidden["hidden.vectors"],
        "centre": hidden["hidden.centre"],
        "error": directions(rows.error, contributions, ERROR_RIDGE)[1],
        "gradient": vectors,
    }
    return {name: tensor.numpy() for name, tensor in found.items()}


def _differing_rows(index: AttributionIndex, parts: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
    """(published, recomputed) numbers of rows by position, where they differ."""
    published = dict(zip(index.positions.tolist(), index.rows.tolist(), strict=True))
    ours = dict(zip(parts["positions"].tolist(), parts["rows"].tolist(), strict=True))
    both = {at: (published.get(at, 0), ours.get(at, 0)) for at in sorted(published.keys() | ours.keys())}
    return {at: counts for at, counts in both.items() if counts[0] != counts[1]}


def _num_unplanned(answers: Sequence[Answer], planned: Sequence[Prompt]) -> int:
    pairs = zip([answer.prompt for answer in answers], planned, strict=False)
    return sum(one != other for one, other in pairs) + abs(len(answers) - len(planned))


def _fit_maps(published: Published, answers: _States, error_vectors: Any) -> dict[str, Fitted]:
    """The maps of each method, fitted to the scores by the published directions, starting from
    `error_vectors` [n, hidden].

    Rounding may tip the choice of the regularisation to the next of its candidates, so that one is accepted.
    """
    scores = answers.gradient.double() @ torch.from_numpy(published.index.gradient).double().T
    given = (answers.hidden, answers.error, scores, torch.from_numpy(error_vectors), published.answers)
    fitted = distil_scores(*given)
    stated = {method: _number(published.metadata.get(f"{MAPS[method]}_strength")) for method in fitted}
    neighbours = {
        method: [strength]
        for method, strength in stated.items()
        if strength in (fitted[method].strength / 2, fitted[method].strength * 2)
    }
    again = distil_scores(*given, neighbours) if neighbours else {}
    return {method: again[method] if method in neighbours else fitted[method] for method in fitted}


def _evidence(published: Published, fitted: Mapping[str, Fitted]) -> dict[str, Any]:
    """The index's statements about its maps, and what they should be."""
    metadata = published.metadata
    agreements = {
        method: (_number(metadata.get(AGREEMENTS[method])), each.agreement) for method, each in fitted.items()
    }
    count = sum(answer.prompt.is_kept_out for answer in published.answers)
    return {"agreements": agreements, "num_kept_out": (int(_number(metadata.get(NUM_KEPT_OUT)) or 0), count)}


def _number(text: str | None) -> float | None:
    """None also for a text that is no finite number."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _differences(
    index: AttributionIndex, parts: Mapping[str, Any], probes: Sequence[Probe]
) -> tuple[MethodDifference, ...]:
    ours = replace(index, **parts)
    indices = Indices()
    compared: list[tuple[ByIndex, str]] = [
        (Distilled(indices), "distilled"),
        (DistilledError(indices), "distilled_error"),
        (Ridge(indices, "gradient"), "gradient"),
        (Ridge(indices, "error"), "error"),
        (HiddenCosine(indices), "hidden"),
    ]
    return tuple(
        _difference(method, part, index, ours, probes)
        for method, part in compared
        if part in parts and getattr(index, part) is not None
    )


def _difference(
    method: ByIndex, part: str, published: AttributionIndex, ours: AttributionIndex, probes: Sequence[Probe]
) -> MethodDifference:
    moved = []
    for probe in probes:
        one, other = (method.score(index, probe) for index in (published, ours))
        if one is not None and other is not None:
            moved.append(moved_ppm(one, other))
    return MethodDifference(
        method=method.method,
        distance=_distance(_vectors(published, part), _vectors(ours, part)),
        moved_ppm=round(sum(moved) / len(moved)) if moved else 0,
        most_moved_ppm=max(moved, default=0),
        num_answers=len(moved),
    )


def _vectors(index: AttributionIndex, part: str) -> Any:
    """What a method compares answers with, fp64, one row for each contribution."""
    found = getattr(index, part)
    if part == "hidden":
        return np.vstack([found, index.centre]).astype(np.float64)
    if part in {"distilled", "distilled_error"}:
        return np.column_stack([found.weights, found.bias]).astype(np.float64)
    return found.astype(np.float64)


def _distance(published: Any, ours: Any) -> float:
    """Largest norm of a row's difference, relative to that of our row."""
    norms = np.linalg.norm(ours, axis=1)
    gaps = np.linalg.norm(published - ours, axis=1)
    return float((gaps / np.maximum(norms, np.finfo(np.float64).tiny)).max(initial=0.0))


def moved_ppm(published: Any, ours: Any) -> int:
    """Part of the pool that goes to other contributions by the published scores [n] than by ours, in ppm."""
    pairs = [shares_from_scores(dict(enumerate(scores.tolist()))) for scores in (published, ours)]
    one, other = ({share.position: share.ppm for share in shares} for shares in pairs)
    moved: int = sum(max(ppm - other.get(at, 0), 0) for at, ppm in one.items())
    return moved
