"""A process that says what training would make of some rows: `python -m workers.training.tokenise`.

One message in and one out, as `backend.installation.tokenizer` has it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.processes.parent import Parent
from workers.training.rows import IGNORED, Example, encode, packs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_SHOWN_TOKENS = 1024


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = Parent()
    asked = parent.receive()
    from transformers import AutoTokenizer

    from inference.model.sources import resolve_model

    folder = resolve_model(asked["base_folder"], Path(asked["model_cache"]))
    parent.send(tokenised(asked, AutoTokenizer.from_pretrained(folder, local_files_only=True)))


def tokenised(asked: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The fields of `backend.services.train.estimate.Tokenised`, as JSON."""
    whole = [
        encode(contribution, row, tokenizer, sys.maxsize, asked["loss_on"])
        for contribution, row in asked["rows"]
    ]
    cut = [_cut(example, asked["max_length"]) for example in whole]
    usable = [example for example in cut if example.num_trained > 0]
    lengths = [len(example.token_ids) for example in usable]
    return {
        "num_usable": len(usable),
        "num_cut": sum(len(example.token_ids) > asked["max_length"] for example in whole),
        "num_tokens": sum(lengths),
        "num_learnt": sum(example.num_trained for example in usable),
        "num_sequences": len(packs(usable, asked["max_length"])) if asked["packing"] else len(usable),
        "shown": [_shown(example, tokenizer) for example in _spread(usable, asked["num_shown"])],
    }


def _cut(example: Example, length: int) -> Example:
    ids, labels = example.token_ids[:length], example.labels[:length]
    return Example(example.contribution, example.group, ids, labels)


def _spread(examples: Sequence[Example], count: int) -> Sequence[Example]:
    return examples[:: max(1, len(examples) // count)][:count] if count else ()


def _shown(example: Example, tokenizer: Any) -> dict[str, Any]:
    """Nothing predicts a row's first token, so it is never learnt."""
    ids = example.token_ids[:MAX_SHOWN_TOKENS]
    learnt = [place > 0 and example.labels[place] != IGNORED for place in range(len(ids))]
    texts = [tokenizer.decode([token]) for token in ids]
    return {"contribution": example.contribution, "tokens": texts, "is_learnt": learnt}


if __name__ == "__main__":
    main()
