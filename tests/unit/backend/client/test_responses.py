"""URLs that name a market."""

from __future__ import annotations

import pytest

from backend.client.responses import market_url
from backend.domain.errors import InvalidInput


@pytest.mark.parametrize(
    "url",
    [
        "market.example",
        "ftp://market.example",
        "https://",
        "https://market.example/v1",
        "https://u@m.example",
        "https://m.example/?a=b",
        "http://[::1",
        "http://market.example:port",
        "http://\u00fc" + "a" * 80 + ".example",
        "",
    ],
)
def test_what_is_no_url_of_a_market_is_named(url: str) -> None:
    with pytest.raises(InvalidInput, match="not the URL of a market"):
        market_url(url)


def test_a_market_is_known_by_its_origin() -> None:
    assert market_url("https://Market.example/") == "https://market.example"
    assert market_url("http://127.0.0.1:8000") == "http://127.0.0.1:8000"
