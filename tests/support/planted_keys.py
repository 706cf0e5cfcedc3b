"""Planted API keys, and the search for them in output and files."""

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


def encodings(key: str) -> set[bytes]:
    """Return the encodings and recognizable parts of a key."""
    texts = {key, quote(key, safe=""), quote_plus(key), json.dumps(key)[1:-1], key[:14], key[-9:]}
    raw = {text.encode() for text in texts if len(text) >= 8}
    raw.add(base64.b64encode(f":{key}".encode()).rstrip(b"="))
    raw.add(key.encode("utf-16-le"))
    return raw


KEY_ENCODINGS = {form: name for name, key in KEYS.items() for form in encodings(key)}


def leaks(raw: bytes) -> set[str]:
    """Return the names of planted keys of which any encoding occurs in the bytes."""
    return {name for form, name in KEY_ENCODINGS.items() if form in raw}


def leaking_files(folder: Path) -> dict[str, set[str]]:
    """Return the files below a folder that contain a key."""
    leaking = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and (names := leaks(path.read_bytes())):
            leaking[str(path.relative_to(folder))] = names
    return leaking


def masked(key: str) -> str:
    """Mask a key as OpenAI does in its error messages."""
    return f"{key[:8]}{'*' * 12}{key[-4:]}"
