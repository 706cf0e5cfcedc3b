"""Endpoint URLs: where calls go, and why they fail.

A SPEC's URL is stored as it was written. Requests go to its base, with its query (Azure's
`?api-version=`) after each path. Calls to this machine never use a proxy, whatever the
environment's proxy settings; elsewhere a failed call's error names the proxy.
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
"""`mounts` with which the openai package's HTTP client uses no proxy."""
_CALLS = ("/chat/completions", "/completions", "/responses", "/models")


@dataclass(frozen=True)
class Endpoint:
    """A base URL without a query, and the query to append to every path."""

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
        """Return additional authentication headers: Azure expects its key in `api-key`."""
        azure = any(name == "api-version" for name, _ in self.query)
        return {"api-key": key} if azure and key else {}


def endpoint_of(url: str) -> Endpoint:
    """Parse a URL, or the environment's OPENAI_BASE_URL if it is empty.

    A URL that ends with a call (`…/chat/completions`) is reduced to its base.
    """
    whole = url or os.environ.get("OPENAI_BASE_URL", "").strip() or DEFAULT_URL
    path, _, query = whole.partition("#")[0].partition("?")
    path = path.rstrip("/")
    for call in _CALLS:
        path = path.removesuffix(call)
    return Endpoint(path.rstrip("/"), tuple(parse_qsl(query, keep_blank_values=True)))


def goes_direct(url: str) -> bool:
    """Return whether calls to a URL must ignore the environment's proxies."""
    return is_loopback_url(url)


def proxy_of(url: str) -> tuple[str, str] | None:
    """Return (variable, proxy without its password) that calls to a URL use, or None."""
    if goes_direct(url):
        return None
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    for scheme in (parts.scheme, "all"):
        if proxies.get(scheme):
            if urllib.request.proxy_bypass(parts.hostname or ""):
                return None
            return f"{scheme}_proxy", redact(proxies[scheme], shapes=True)
    return None


@dataclass(frozen=True)
class ConnectionFailure:
    """Why a call failed to connect, and what to do.

    Attributes:
        final: retrying does not help.
        settled: retrying for long does not help either.
    """

    message: str
    hint: str
    final: bool = False
    settled: bool = False


def explain_connection_error(error: BaseException, url: str) -> ConnectionFailure:
    """Explain why a request to `url` got no response."""
    chain = list(_causes(error))
    details = " | ".join(f"{type(cause).__name__}: {cause}" for cause in chain).lower()
    host = urlsplit(url).hostname or url
    tls_failure = _tls(chain, details)
    proxy = proxy_of(url)
    if proxy is not None and tls_failure is None:
        name, where = proxy
        return ConnectionFailure(
            f"not reached through the proxy {where} ({name}): {_reason(chain, details, where)}",
            f"is the proxy up? To bypass it: export NO_PROXY={host}",
            settled="refused" in details,
        )
    if tls_failure is not None:
        return tls_failure
    if any(isinstance(cause, socket.gaierror) for cause in chain) or _UNNAMED.search(details):
        return ConnectionFailure(
            f"cannot resolve host {host!r}",
            "is the host name correct, and is this machine online?",
            settled="temporary" not in details,
        )
    return ConnectionFailure(
        _reason(chain, details, host),
        "is the server running, is the port correct, and does the URL end at the API's base "
        "(often /v1)?",
        settled="refused" in details,
    )


_UNNAMED = re.compile(
    r"name or service not known|nodename nor servname|getaddrinfo failed|name resolution|"
    r"dns|no address associated|name does not resolve"
)


_TLS_WORDS = re.compile(r"\[ssl\b|certificate|\btls\b|handshake|wrong version number")


def _tls(chain: list[BaseException], details: str) -> ConnectionFailure | None:
    """Explain a TLS failure, which no retry fixes."""
    is_tls = any(isinstance(cause, ssl.SSLError) for cause in chain)
    if not is_tls and not _TLS_WORDS.search(details):
        return None
    if "wrong version number" in details or "record layer" in details or "http request" in details:
        return ConnectionFailure(
            "the server does not use TLS on this port",
            "should the URL begin with http:// instead of https://, or use another port?",
            final=True,
        )
    if "verify failed" in details or "self-signed" in details or "self signed" in details:
        reason = re.search(r"verify failed: ([^()\[\]|]{3,120})", details)
        return ConnectionFailure(
            "the server's certificate is not trusted"
            + (f": {reason[1].strip()}" if reason else ""),
            "for a private CA: export SSL_CERT_FILE=FILE with its certificate (PEM)",
            final=True,
        )
    return ConnectionFailure(
        "the TLS connection failed: " + details.split("|")[-1].strip()[:160],
        "is there a firewall or a proxy in between?",
    )


def _reason(chain: list[BaseException], details: str, where: str) -> str:
    """Return the shortest description of a failed connection."""
    if "refused" in details:
        return "connection refused"
    if "unreachable" in details or "no route" in details:
        return f"the network to {where} is unreachable"
    if "readtimeout" in details:
        return "read timed out"
    if "timeout" in details or "timed out" in details:
        return "connection timed out"
    last = next((str(cause) for cause in reversed(chain) if str(cause).strip()), "")
    return redact(last, shapes=True)[:300] or type(chain[-1]).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, outermost first."""
    seen: list[object] = []
    current: BaseException | None = error
    while current is not None and current not in seen and len(seen) < 12:
        seen.append(current)
        yield current
        current = current.__cause__ or current.__context__
