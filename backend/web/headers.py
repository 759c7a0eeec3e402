"""Headers of all pages: what a page may load and who may embed it, and compression."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import Request, Response

COMPRESSED_FROM = 1000
"""Bytes from which a page is compressed."""
_DIRECTIVES = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",  # wallets announce their icons as data URLs; cards have no images
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
_HEADERS = {
    "cache-control": "private, no-cache",
    "vary": "hx-request, accept-encoding, cookie",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin-allow-popups",  # some wallets sign in a window of their own
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def set_headers(response: Response, connects_to: Sequence[str] = ()) -> None:
    """`connects_to`: sources besides our own that the page's scripts may request."""
    directives = _DIRECTIVES | {"connect-src": " ".join(("'self'", *connects_to))}
    policy = "; ".join(f"{name} {sources}" for name, sources in directives.items())
    for name, value in {**_HEADERS, "content-security-policy": policy}.items():
        response.headers.setdefault(name, value)


def accepts_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")


def compress(request: Request, response: Response) -> None:
    """Compress the body of a rendered page. Tokens of forms differ in each response (see `visitor`), so the
    size of a page reveals none.
    """
    if len(response.body) < COMPRESSED_FROM or not accepts_gzip(request):
        return
    response.body = gzip.compress(response.body, compresslevel=5, mtime=0)
    response.headers["content-encoding"] = "gzip"
    response.headers["content-length"] = str(len(response.body))
