"""Limits on replies: size, no compression, no redirects.

An endpoint is not trusted: an endless body would fill the memory before any timeout, a small
compressed one could expand to gigabytes, and a redirect would send the texts (and, on the same
host, the key) to an address the user did not choose.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cache
from typing import TYPE_CHECKING, Any

from kdharness.harness.config.endpoints import DIRECT, explain_connection_error, goes_direct
from kdharness.harness.util.redact import redact
from kdharness.judges.engines.trouble import CallError, Trouble

if TYPE_CHECKING:
    from openai import AsyncOpenAI

LARGEST_BODY = 16 * 2**20
"""Bytes: a hundred times the size of the longest reply with log-probabilities."""


class TooLarge(Exception):
    """A body that exceeds the limits and is not read."""


def http_client(timeout: float, url: str = "", *, largest: int = LARGEST_BODY) -> Any:
    """Return the HTTP client for the openai package; it uses aiohttp if that is installed.

    Calls to a `url` on this machine never use a proxy, whatever the environment says.
    """
    import openai

    async def limit(response: Any) -> None:
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise TooLarge(f"the reply is compressed ({coding[:40]}), which was not requested")
        response.stream = _capped()(response.stream, largest)

    options: dict[str, Any] = {
        "timeout": timeout,
        "follow_redirects": False,
        "event_hooks": {"response": [limit]},
        "headers": {"Accept-Encoding": "identity"},
    }
    if goes_direct(url):
        options["mounts"] = DIRECT
    try:
        return openai.DefaultAioHttpClient(**options)
    except RuntimeError:
        return openai.DefaultAsyncHttpxClient(**options)


class NotReached(CallError):
    """No connection to the endpoint."""


async def send(
    client: AsyncOpenAI, content: bytes, timeout: float, url: str
) -> tuple[int, Any, bytes]:
    """Send one chat completion's body; return (status, headers, body).

    Raises:
        NotReached: no connection to `url`, with the reason.
        CallError: no reply in time, a reply that is too large, or one that is not HTTP.
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
        # The aiohttp transport reports every failed connection as a connect timeout.
        late = isinstance(error, openai.APITimeoutError)
        if late and not isinstance(error.__cause__, httpx2.ConnectTimeout):
            raise CallError(f"no reply within {timeout:g} s", Trouble.RETRY) from error
        why = explain_connection_error(error, url)
        reason = why.message
        message = reason if reason.startswith("not reached") else f"not reached: {reason}"
        trouble = Trouble.FATAL if why.final else Trouble.RETRY
        raise NotReached(message, trouble, hint=why.hint) from error
    except Exception as error:  # a server that does not speak HTTP can fail in any layer
        reason = redact(str(error), shapes=True)[:300] or type(error).__name__
        raise CallError(f"no HTTP reply: {reason}", Trouble.RETRY) from error


@cache
def _capped() -> Any:
    import httpx2

    class Capped(httpx2.AsyncByteStream):
        """A body that raises once it is too large."""

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
