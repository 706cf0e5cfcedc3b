"""Redaction of API keys in everything that is stored, logged or printed.

A key comes from the environment and is sent to its endpoint; servers echo it in errors and
models in answers, libraries print it, tracebacks quote it. What is stored, logged or printed
passes through `redact` in a few places: the store's rows, the client's replies, a worker's output,
the command line's errors. Known keys are found in every encoding in which they occur; in messages
(`shapes=True`) also text that merely looks like a key, since a key may come from elsewhere.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TextIO
from urllib.parse import quote, quote_plus

from kdharness.harness.errors import ConfigError

HIDDEN = "***"
KEY_NAMES = ("KDHARNESS_JUDGE_API_KEY", "OPENAI_API_KEY")
"""Environment variables with the key of an OpenAI-compatible endpoint, in order."""
OURS = ("KDHARNESS_JUDGE_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SHORTEST = 8
SHORTEST_OTHER = 16
"""A shorter value (of a variable that is not ours) is not a key: hiding it would garble texts."""

# Patterns are compiled, and kept by re, when they are first used: the first paint needs none.
_NAMES = r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$"
_SHAPES: tuple[tuple[str, str], ...] = (
    (r"(://)[^\s/@'\"]{1,512}@", rf"\1{HIDDEN}@"),
    (
        (
            r"(?i)([?&;](?:api[_-]?key|key|access[_-]?token|token|auth|authorization|secret|"
            r"password|passwd|sig|signature|code)=)[^\s&;#'\"<>]{1,4096}"
        ),
        rf"\1{HIDDEN}",
    ),
    (r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=*-]{8,4096}", rf"\1 {HIDDEN}"),
    (
        (
            r"(?i)([\"']?\b(?:x-)?api[_-]?key[\"']?\s{0,4}[:=]\s{0,4}[\"']?)"
            r"[A-Za-z0-9._~+/*-]{8,4096}"
        ),
        rf"\1{HIDDEN}",
    ),
    (r"\b(?:sk|pk|rk)-[A-Za-z0-9_*.…-]{6,512}", HIDDEN),
    (r"\bhf_[A-Za-z0-9]{16,512}", HIDDEN),
)
_SECRET_PARAMETER = (
    r"(?i)[?&;](?:[\w.-]{0,64}[_-])?(?:api[_-]?key|key|access[_-]?token|token|auth|authorization|"
    r"secret|password|passwd|sig|signature|code)="
)


def find_key() -> str | None:
    """Return the API key from the environment, if there is one.

    Surrounding whitespace (from a file, `.env` or `echo`) is stripped.

    Raises:
        ConfigError: it contains characters that no key has and no HTTP header allows.
    """
    for name in KEY_NAMES:
        key = os.environ.get(name, "").strip()
        if key:
            _refuse_odd_key(name, key)
            return key
    return None


def _refuse_odd_key(name: str, key: str) -> None:
    """Raise an error that states what is wrong with a key without showing the key."""
    odd = next((char for char in key if not "!" <= char <= "~"), "")
    if key.lower().startswith("bearer "):
        problem, hint = "begins with the word Bearer", "set only the key; the word is added"
    elif odd in ("\n", "\r"):
        problem, hint = "contains a line break", "are these two keys? Set one of them"
    elif odd:
        title = unicodedata.name(odd, "a control character")
        shown = f"{odd!r} ({title})" if odd.isprintable() else title
        problem = f"contains {shown}"
        hint = "was it copied from formatted text? Copy the key again"
    elif len(key) > 1 and key[0] == key[-1] and key[0] in "\"'`":
        problem, hint = "is in quotation marks", "set it without them"
    else:
        return
    raise ConfigError(f"the key in {name} {problem}", hint=hint)


def redact(text: str, *, shapes: bool = False) -> str:
    """Return the text without this environment's keys.

    Args:
        shapes: also hide text that looks like a key (`Bearer …`, `sk-…`, `user:word@host`): right
            for messages, wrong for data.
    """
    pattern = _pattern(_environment_keys())
    if pattern is not None:
        text = pattern.sub(HIDDEN, text)
    if shapes:
        for shape, replacement in _SHAPES:
            text = re.sub(shape, replacement, text)
    return text


def redact_data(value: object, *, shapes: bool = False) -> object:
    """Redact plain data, keys of mappings included."""
    if _pattern(_environment_keys()) is None and not shapes:
        return value
    if isinstance(value, str):
        return redact(value, shapes=shapes)
    if isinstance(value, Mapping):
        return {
            redact_data(key, shapes=shapes): redact_data(part, shapes=shapes)
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(redact_data(part, shapes=shapes) for part in value)
    return value


def holds_secret(url: str) -> bool:
    """Return whether a URL contains a user name, a password or a key."""
    return bool(re.match(r"\w+://[^/?#]*@", url) or re.search(_SECRET_PARAMETER, url))


_seen: tuple[object, tuple[str, ...]] = (None, ())
"""The environment when it was last searched for keys, and the keys."""


def _environment_keys() -> tuple[str, ...]:
    """Search the environment again only when it has changed: every stored text is redacted."""
    global _seen
    # What os.environ wraps is compared in a microsecond, os.environ in a hundred.
    now = getattr(os.environ, "_data", None)
    if now is None or _seen[0] != now:
        _seen = (dict(now) if now is not None else None, _search_environment())
    return _seen[1]


def _search_environment() -> tuple[str, ...]:
    keys = set()
    for name, value in os.environ.items():
        value = value.strip()
        if name in OURS:
            shortest = SHORTEST
        elif re.search(_NAMES, name.upper()) and not value.startswith(("/", "~", ".")):
            shortest = SHORTEST_OTHER
        else:
            continue
        if len(value) >= shortest:
            keys.add(value)
    return tuple(sorted(keys, key=len, reverse=True))


@lru_cache(maxsize=8)
def _pattern(keys: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return a regex of every form of every key, longest first."""
    forms = {form for key in keys for form in _forms(key)}
    parts = [re.escape(form) for form in sorted(forms, key=len, reverse=True)]
    parts += [_masked(key) for key in keys]
    return re.compile("|".join(parts)) if parts else None


def _forms(key: str) -> set[str]:
    """Return a key as it is written in headers, URLs, JSON, HTML and HTTP basic authentication."""
    import html  # its table of entities is large

    forms = {
        key,
        quote(key, safe=""),
        quote(key),
        quote_plus(key),
        json.dumps(key)[1:-1],
        json.dumps(key, ensure_ascii=False)[1:-1],
        json.dumps(key)[1:-1].replace("/", "\\/"),
        repr(key)[1:-1],
        html.escape(key),
        # Every character escaped, as some JSON encoders do.
        "".join(f"\\u{ord(char):04x}" for char in key),
        "".join(f"%{byte:02X}" for byte in key.encode("utf-8", "replace")),
    }
    raw = key.encode("utf-8", "replace")
    for head in (b"", b":", b"api:", b"user:"):
        forms.add(base64.b64encode(head + raw).decode().rstrip("="))
    return {form for form in forms if len(form) >= SHORTEST}


def _masked(key: str) -> str:
    """Match `sk-abc***wxyz`, as endpoints quote a refused key: its ends are secret too."""
    head, tail = re.escape(key[:4]), re.escape(key[-3:])
    return rf"{head}[\w.*…-]{{0,64}}(?:\*{{2,}}|\.{{3}}|…)[\w.*…-]{{0,64}}{tail}"


# ---------------------------------------------------------------- output


class RedactedStream:
    """A text stream that hides keys in what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text without keys; `print` and tracebacks write each text in one call."""
        self._stream.write(redact(text, shapes=True))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def redact_output() -> None:
    """Hide keys in everything this process prints from now on, tracebacks included."""
    sys.stdout = RedactedStream(sys.stdout)
    sys.stderr = RedactedStream(sys.stderr)


def redact_tracebacks() -> None:
    """Hide keys in the traceback that ends this process, and leave its other output unchanged."""

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(redact(text, shapes=True))

    sys.excepthook = hook
