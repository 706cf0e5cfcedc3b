"""Where an endpoint's calls go, and why they do not arrive.

A SPEC's URL is kept as it was written. What is asked is its base, with its query (Azure's
`?api-version=`) behind each path. Calls to this machine never take a proxy, whatever the
environment says of proxies; elsewhere a proxy in the way is named when a call fails.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from kdharness.harness.config.evaluation import is_loopback_url
from kdharness.harness.util.redact import redact

DEFAULT_URL = "https://api.openai.com/v1"
DIRECT: dict[str, Any] = {"all://": None, "http://": None, "https://": None}
"""What makes the openai package's HTTP client take no proxy (its `mounts`)."""
_CALLS = ("/chat/completions", "/completions", "/responses", "/models")


@dataclass(frozen=True)
class Endpoint:
    """A base URL without a query, and the query that belongs behind every path."""

    base: str
    query: tuple[tuple[str, str], ...] = ()

    @property
    def host(self) -> str:
        """The host's name, in lower case."""
        return (urlsplit(self.base).hostname or "").lower()

    def path(self, tail: str) -> str:
        """Return the whole URL of one call, such as `/models`."""
        query = urlencode(self.query)
        return f"{self.base}{tail}" + (f"?{query}" if query else "")

    def headers(self, key: str | None) -> dict[str, str]:
        """Return what else says who is calling: Azure wants its keys in a header of its own."""
        azure = any(name == "api-version" for name, _ in self.query)
        return {"api-key": key} if azure and key else {}


def endpoint_of(url: str) -> Endpoint:
    """Read a URL, or the environment's OPENAI_BASE_URL where it is empty.

    A URL that was copied with the call at its end (`…/chat/completions`) means its base.
    """
    whole = url or os.environ.get("OPENAI_BASE_URL", "").strip() or DEFAULT_URL
    path, _, query = whole.partition("#")[0].partition("?")
    path = path.rstrip("/")
    for call in _CALLS:
        path = path.removesuffix(call)
    return Endpoint(path.rstrip("/"), tuple(parse_qsl(query, keep_blank_values=True)))


def goes_direct(url: str) -> bool:
    """Tell whether calls to a URL must leave the environment's proxies aside."""
    return is_loopback_url(url)


def proxy_of(url: str) -> tuple[str, str] | None:
    """Return (variable, proxy without its password) that calls to a URL take, or None."""
    if goes_direct(url):
        return None
    place = urlsplit(url)
    known = urllib.request.getproxies()
    for scheme in (place.scheme, "all"):
        if known.get(scheme):
            if urllib.request.proxy_bypass(place.hostname or ""):
                return None
            return f"{scheme}_proxy", redact(known[scheme], shapes=True)
    return None


@dataclass(frozen=True)
class Unreached:
    """Why a call did not arrive, and what to do.

    Attributes:
        final: trying again is of no use.
        settled: neither is trying again for long.
    """

    message: str
    hint: str
    final: bool = False
    settled: bool = False


def why_unreached(error: BaseException, url: str) -> Unreached:
    """Say in words why nothing came back from `url`."""
    chain = list(_causes(error))
    told = " | ".join(f"{type(one).__name__}: {one}" for one in chain).lower()
    host = urlsplit(url).hostname or url
    found = _tls(chain, told)
    proxy = proxy_of(url)
    if proxy is not None and found is None:
        name, where = proxy
        return Unreached(
            f"not reached through the proxy {where} ({name}): {_reason(chain, told, where)}",
            f"is that proxy up? Or go around it: export NO_PROXY={host}",
            settled="refused" in told,
        )
    if found is not None:
        return found
    if any(isinstance(one, socket.gaierror) for one in chain) or _UNNAMED.search(told):
        return Unreached(
            f"there is no host named {host!r} (its name does not resolve)",
            "is the host's name right, and is this machine on the network?",
            settled="temporary" not in told,
        )
    return Unreached(
        _reason(chain, told, host),
        "is the server running, is the port right, and does the URL end where its API begins "
        "(often /v1)?",
        settled="refused" in told,
    )


_UNNAMED = re.compile(
    r"name or service not known|nodename nor servname|getaddrinfo failed|name resolution|"
    r"dns|no address associated|name does not resolve"
)


_TLS_WORDS = re.compile(r"\[ssl\b|certificate|\btls\b|handshake|wrong version number")


def _tls(chain: list[BaseException], told: str) -> Unreached | None:
    """A failure of the encryption, which no retry mends."""
    if not any(isinstance(one, ssl.SSLError) for one in chain) and not _TLS_WORDS.search(told):
        return None
    if "wrong version number" in told or "record layer" in told or "http request" in told:
        return Unreached(
            "the server does not speak TLS there",
            "should the URL begin with http:// instead of https://, or name another port?",
            final=True,
        )
    if "verify failed" in told or "self-signed" in told or "self signed" in told:
        why = re.search(r"verify failed: ([^()\[\]|]{3,120})", told)
        return Unreached(
            "the server's certificate is not trusted" + (f": {why[1].strip()}" if why else ""),
            "for a certificate of your own: export SSL_CERT_FILE=FILE with its authority's "
            "certificate (PEM)",
            final=True,
        )
    return Unreached(
        "the encrypted connection failed: " + told.split("|")[-1].strip()[:160],
        "is a firewall or a proxy in between?",
    )


def _reason(chain: list[BaseException], told: str, where: str) -> str:
    """The plainest words for a failed connection."""
    if "refused" in told:
        return "connection refused"
    if "unreachable" in told or "no route" in told:
        return f"the network to {where} is unreachable"
    if "readtimeout" in told:
        return "no reply in time"
    if "timeout" in told or "timed out" in told:
        return "no connection in time"
    last = next((str(one) for one in reversed(chain) if str(one).strip()), "")
    return redact(last, shapes=True)[:300] or type(chain[-1]).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, the outermost first."""
    seen: list[Any] = []
    one: BaseException | None = error
    while one is not None and one not in seen and len(seen) < 12:
        seen.append(one)
        yield one
        one = one.__cause__ or one.__context__
