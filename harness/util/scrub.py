"""Names for others: without paths of this machine and without addresses of endpoints."""

from __future__ import annotations

import ntpath
import posixpath
import re
from collections.abc import Mapping

_ENDPOINT = re.compile(r"@https?://\S+")
_URL = re.compile(r"https?://\S+")
_PATH_IN_PROSE = re.compile(
    r"(?<![\w/\\.:~])(?:(?:~\w*|\.{1,2})?/[^\s/]+/\S*|[A-Za-z]:\\\S*)(?<![/\\])"
)
PROSE = ("prompt",)
"""Fields whose slashes stand between words."""
_PATH = re.compile(r"^(~|[A-Za-z]:)?[/\\]|^file:|^local:[/\\~.]|[/\\].*[/\\]")
_JOINED = re.compile(r"\+(?=[\w-]+:)")
"""Between the judges of a panel."""


def without_places(value: object) -> object:
    """Return plain data with the last part of every local path, and no address of an endpoint."""
    if isinstance(value, Mapping):
        return {
            key: _prose(part) if key in PROSE and isinstance(part, str) else without_places(part)
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_places(part) for part in value]
    if not isinstance(value, str):
        return value
    text = _ENDPOINT.sub("", value)
    if re.match(r"^https?://", text):
        return "(an endpoint)"
    if "\n" in text:
        return _prose(text)
    if _PATH.search(text):
        return _last_part(text)
    return text


def _prose(text: str) -> str:
    """Return a text for people or models without the paths and addresses among its words."""
    plain = _URL.sub("(an endpoint)", _ENDPOINT.sub("", text))
    return _PATH_IN_PROSE.sub(lambda found: _last_part(found[0]), plain)


def _last_part(path: str) -> str:
    return ntpath.basename(posixpath.basename(path.rstrip("/\\")))


def judge_without_places(judge: str) -> str:
    """Return a judge, or a panel of several, without addresses and local paths.

    A model that an endpoint names may have several parts: they are no path of this machine.
    """
    kind, _, model = judge.partition(":")
    if kind == "panel":
        return f"panel:{'+'.join(map(judge_without_places, _JOINED.split(model)))}"
    model = _ENDPOINT.sub("", model)
    is_path = _PATH.search(f"{kind}:{model}" if kind == "local" else model)
    if is_path and (kind in ("local", "llama", "vllm") or model.startswith(("/", "~", "\\"))):
        model = _last_part(model)
    return f"{kind}:{model}" if model else kind
