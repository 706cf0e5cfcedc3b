"""Change one setting in the user's settings.yaml, and nothing else of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdharness.harness.errors import ConfigError
from kdharness.harness.util.atomic import atomic_write_text


def save_setting(path: Path, name: str, value: object) -> None:
    """Change a setting in the file, wherever a link leads; its mode stays.

    Raises:
        ConfigError: it is no YAML, or is written so that the change would touch something else.
        OSError: it cannot be read or written.
    """
    path = path.resolve()
    # As bytes, so that the ends of its lines stay.
    text = path.read_bytes().decode("utf-8") if path.is_file() else ""
    mode = path.stat().st_mode & 0o7777 if path.is_file() else None
    changed = with_setting(text, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, changed, mode=mode)


def with_setting(text: str, name: str, value: object) -> str:
    """Return YAML with one field of its mapping changed or added: comments and order stay.

    Raises:
        ConfigError: it is no YAML mapping, or its way of writing allows no such change.
    """
    import yaml

    from kdharness.harness.util.untrusted import parse_yaml

    before = parse_yaml(text, "settings.yaml") or {}
    if not isinstance(before, dict):
        raise ConfigError("settings.yaml must be a mapping")
    written = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.isalpha() and not _is_other(value):
        written = value
    changed = _replaced(text, yaml.compose(text), f"{name}: {written}", name)
    try:
        after = parse_yaml(changed, "settings.yaml")
    except ConfigError:
        after = None
    if after != {**before, name: value}:
        raise ConfigError(
            "settings.yaml is written in a way that is not changed here",
            hint=f"write this into it: {name}: {written}",
        )
    return changed


def _is_other(word: str) -> bool:
    """Return whether YAML reads a word as something else, such as `on`."""
    import yaml

    return bool(yaml.safe_load(word) != word)


def _replaced(text: str, root: Any, line: str, name: str) -> str:
    """Return the text with a field's key and value replaced, or the line added at the end."""
    newline = "\r\n" if "\r\n" in text else "\n"
    if root is None or not getattr(root, "value", None):
        lines = [text.rstrip()] if text.strip() not in ("", "{}") else []
        return newline.join([*lines, line, ""])
    for key, value in root.value:
        if key.value == name:
            start = int(key.start_mark.index)
            return text[:start] + line + text[_end(text, value) :]
    end = _end(text, root)
    if root.flow_style:
        return f"{text[: end - 1]}, {line}{text[end - 1 :]}"
    stop = text.find("\n", end)
    head, tail = (text, "") if stop < 0 else (text[:stop].removesuffix("\r"), text[stop + 1 :])
    indent = " " * int(root.start_mark.column)
    return f"{head}{newline}{indent}{line}{newline}{tail}"


def _end(text: str, node: Any) -> int:
    """Return where a node ends: the end that YAML gives a block is that of what follows it."""
    if isinstance(node.value, list) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    end = int(node.end_mark.index)
    return len(text[:end].rstrip()) if getattr(node, "style", None) in ("|", ">") else end
