"""Functions whose arguments are small."""

from __future__ import annotations

import json

from inference.protocol import Function, Tools

UNIT = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}},
    "required": ["unit"],
    "additionalProperties": False,
}
DAY = {
    "type": "object",
    "properties": {"day": {"type": "integer", "minimum": 1, "maximum": 31}},
    "required": ["day"],
    "additionalProperties": False,
}
TOOLS = Tools((Function("warm", json.dumps(UNIT), "How warm."), Function("date", json.dumps(DAY))))
