"""What a server may send back: so many bytes, plain, and from the address that was named.

An endpoint is not trusted: an endless body would fill the memory before any timeout, a small
compressed one could unfold to gigabytes, and a redirect would carry the texts (and, on the same
host, the key) to a place that nobody chose.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

from kdharness.harness.config.endpoints import DIRECT, goes_direct, why_unreached
from kdharness.harness.util.redact import redact
from kdharness.judges.engines.trouble import CallError, Trouble

LARGEST_BODY = 16 * 2**20
"""Bytes: a hundred times what the longest reply with log-probabilities takes."""


class TooLarge(Exception):
    """A body that is not read to its end."""


def http_client(timeout: float, url: str = "", *, largest: int = LARGEST_BODY) -> Any:
    """Return what the openai package sends through; aiohttp carries it where installed.

    Calls to a `url` of this machine take no proxy, whatever the environment says.
    """
    import openai

    async def look(response: Any) -> None:
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise TooLarge(f"the reply is packed ({coding[:40]}) although that was not asked for")
        response.stream = _capped()(response.stream, largest)

    options: dict[str, Any] = {
        "timeout": timeout,
        "follow_redirects": False,
        "event_hooks": {"response": [look]},
        "headers": {"Accept-Encoding": "identity"},
    }
    if goes_direct(url):
        options["mounts"] = DIRECT
    try:
        return openai.DefaultAioHttpClient(**options)
    except RuntimeError:
        return openai.DefaultAsyncHttpxClient(**options)


class NotReached(CallError):
    """Nothing came back because nothing arrived."""


async def send(client: Any, content: bytes, timeout: float, url: str) -> tuple[int, Any, bytes]:
    """Send one chat completion's body; return (status, headers, body).

    Raises:
        NotReached: no connection to `url`, with the reason.
        CallError: no reply in time, too large a one, or none that is HTTP.
    """
    import httpx2
    import openai

    try:
        async with asyncio.timeout(timeout):
            response = await client.post(
                "/chat/completions",
                cast_to=httpx2.Response,
                content=content,
                options={"headers": {"Content-Type": "application/json"}},
            )
            return response.status_code, response.headers, response.content
    except openai.APIStatusError as error:
        return error.response.status_code, error.response.headers, error.response.content
    except TooLarge as error:
        raise CallError(str(error), Trouble.GIVE_UP) from error
    except TimeoutError as error:
        raise CallError(f"no reply within {timeout:g} s", Trouble.RETRY) from error
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
        # The aiohttp transport calls every failed connection a connect timeout.
        late = isinstance(error, openai.APITimeoutError)
        if late and not isinstance(error.__cause__, httpx2.ConnectTimeout):
            raise CallError(f"no reply within {timeout:g} s", Trouble.RETRY) from error
        why = why_unreached(error, url)
        said = why.message
        told = said if said.startswith("not reached") else f"not reached: {said}"
        trouble = Trouble.FATAL if why.final else Trouble.RETRY
        raise NotReached(told, trouble, hint=why.hint) from error
    except Exception as error:  # a server that does not speak HTTP, by any layer's own error
        told = redact(str(error), shapes=True)[:300] or type(error).__name__
        raise CallError(f"no HTTP reply: {told}", Trouble.RETRY) from error


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
