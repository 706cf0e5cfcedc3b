"""What a server may send back: so many bytes, plain, and from the address that was named.

An endpoint is not trusted: an endless body would fill the memory before any timeout, a small
compressed one could unfold to gigabytes, and a redirect would carry the texts (and, on the same
host, the key) to a place that nobody chose.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cache
from typing import Any

LARGEST_BODY = 16 * 2**20
"""Bytes: a hundred times what the longest reply with log-probabilities takes."""


class TooLarge(Exception):
    """A body that is not read to its end."""


def http_client(timeout: float, *, largest: int = LARGEST_BODY) -> Any:
    """The client that the openai package sends through; aiohttp carries it where installed."""
    import openai

    async def look(response: Any) -> None:
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise TooLarge(f"the reply is packed ({coding[:40]}) although that was not asked for")
        response.stream = _capped()(response.stream, largest)

    options: dict[str, Any] = {
        "timeout": timeout, "follow_redirects": False, "event_hooks": {"response": [look]},
        "headers": {"Accept-Encoding": "identity"},
    }  # fmt: skip
    try:
        return openai.DefaultAioHttpClient(**options)
    except RuntimeError:
        return openai.DefaultAsyncHttpxClient(**options)


@cache
def _capped() -> Any:
    import httpx2

    class Capped(httpx2.AsyncByteStream):
        """A body that ends in an error once it is too large."""

        def __init__(self, inner: Any, largest: int) -> None:
            self.inner, self.largest = inner, largest

        async def __aiter__(self) -> AsyncIterator[bytes]:
            seen = 0
            async for part in self.inner:
                seen += len(part)
                if seen > self.largest:
                    raise TooLarge(f"the reply is larger than {self.largest:,} bytes")
                yield part

        async def aclose(self) -> None:
            await self.inner.aclose()

    return Capped
