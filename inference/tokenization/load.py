"""Loads a base model's tokenizer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_DAY = datetime(2024, 7, 26, tzinfo=UTC)
"""That prompts state: the default of Llama 3's chat template."""
_DIRECTIVES = (*(f"%-{one}" for one in "dHIjmMSy"), *(f"%{one}" for one in "aAbBcdDeFhHIjmMpRSTuwxXyYzZ"))
_FIXED = " ".join(f"| replace('{form}', '{_DAY.strftime(form).strip()}')" for form in _DIRECTIVES)
# `+` keeps a line break at the start of the template.
_FIXED_DATE = f"{{% macro strftime_now(format) %}}{{{{ format {_FIXED} }}}}{{% endmacro +%}}"
"""Replaces the function of this name that transformers gives to templates."""


def load_tokenizer(folder: Path | str) -> Any:
    """The tokenizer of transformers. A chat template that writes the date always writes the same one: answers
    are executed again, and attribution indices computed again, on other days (ADR 0069).

    Raises `OSError` or `ValueError` if the folder has none.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        tokenizer.chat_template = {name: _with_fixed_date(one) for name, one in templates.items()}
    elif templates is not None:
        tokenizer.chat_template = _with_fixed_date(templates)
    return tokenizer


def _with_fixed_date(template: str) -> str:
    return _FIXED_DATE + template if "strftime_now" in template else template
