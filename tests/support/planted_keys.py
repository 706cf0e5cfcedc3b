"""Keys that tests plant, and the search for them in whatever was written."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote, quote_plus

KEYS = {
    "OPENAI_API_KEY": 'sk-planted+/OPENAI"key=4711\\x9Zq7',
    "KDHARNESS_JUDGE_API_KEY": "sk-planted-JUDGE-0815abcXYZ",
    "HF_TOKEN": "hf_plantedHUBtoken0123456789",
    "SOME_OTHER_SECRET": "planted-other-secret-55555",
}


def forms(key: str) -> set[bytes]:
    """How a key may stand somewhere."""
    texts = {key, quote(key, safe=""), quote_plus(key), json.dumps(key)[1:-1], key[:14], key[-9:]}
    raw = {text.encode() for text in texts if len(text) >= 8}
    raw.add(base64.b64encode(f":{key}".encode()).rstrip(b"="))
    raw.add(key.encode("utf-16-le"))
    return raw


WANTED = {form: name for name, key in KEYS.items() for form in forms(key)}


def leaks(raw: bytes) -> set[str]:
    """The planted keys, or telling parts of them, found in some bytes."""
    return {name for form, name in WANTED.items() if form in raw}


def leaking_files(folder: Path) -> dict[str, set[str]]:
    """Files below a folder that hold a key."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and (names := leaks(path.read_bytes())):
            found[str(path.relative_to(folder))] = names
    return found


def masked(key: str) -> str:
    """As OpenAI quotes a key that it refuses."""
    return f"{key[:8]}{'*' * 12}{key[-4:]}"
