"""Tokenises rows as training does, for estimates: `python -m workers.training.tokenise`.

A child process of `backend.installation.tokenizer`: it receives one message and one more for each row,
and sends one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.processes.parent import Parent
from workers.training.rows import IGNORED, Example, encode, pack_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_SAMPLE_TOKENS = 1024


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = Parent()
    request = parent.receive()
    request["rows"] = [parent.receive() for _ in range(request["num_rows"])]
    from inference.model.sources import resolve_model
    from inference.tokenization.load import load_tokenizer

    folder = resolve_model(request["base_folder"], Path(request["model_cache"]))
    parent.send(tokenise_rows(request, load_tokenizer(folder)))


def tokenise_rows(request: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The fields of `backend.services.train.estimate.Tokenisation`, as JSON."""
    # One token beyond the limit tells which rows are cut.
    longer = [
        encode(contribution, row, tokenizer, request["max_length"] + 1, request["loss_on"])
        for contribution, row in request["rows"]
    ]
    cut = [_truncate(example, request["max_length"]) for example in longer]
    usable = [example for example in cut if example.num_trained > 0]
    lengths = [len(example.token_ids) for example in usable]
    return {
        "num_usable": len(usable),
        "num_cut": sum(len(example.token_ids) > request["max_length"] for example in longer),
        "num_tokens": sum(lengths),
        "num_trained": sum(example.num_trained for example in usable),
        "num_sequences": len(pack_rows(usable, request["max_length"])) if request["packing"] else len(usable),
        "examples": [
            _sample(example, tokenizer) for example in _evenly_spaced(usable, request["num_examples"])
        ],
    }


def _truncate(example: Example, length: int) -> Example:
    ids, labels = example.token_ids[:length], example.labels[:length]
    return Example(example.contribution, example.group, ids, labels)


def _evenly_spaced(examples: Sequence[Example], count: int) -> Sequence[Example]:
    return examples[:: max(1, len(examples) // count)][:count] if count else ()


def _sample(example: Example, tokenizer: Any) -> dict[str, Any]:
    """A row's tokens and which of them are trained. Nothing predicts the first one, so it never is."""
    ids = example.token_ids[:MAX_SAMPLE_TOKENS]
    is_trained = [index > 0 and example.labels[index] != IGNORED for index in range(len(ids))]
    texts = [tokenizer.decode([token]) for token in ids]
    return {"contribution": example.contribution, "tokens": texts, "is_trained": is_trained}


if __name__ == "__main__":
    main()
