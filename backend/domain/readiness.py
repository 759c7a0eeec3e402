"""What keeps an installation from answering."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a part of an installation, and what to do. `is_partial`: the requests that do not
    need what fails are answered.
    """

    text: str
    is_partial: bool = False
