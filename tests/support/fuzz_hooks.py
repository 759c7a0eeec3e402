"""What Schemathesis must be told to fuzz our API; it imports this by SCHEMATHESIS_HOOKS."""

from __future__ import annotations

import schemathesis

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")  # of tus
