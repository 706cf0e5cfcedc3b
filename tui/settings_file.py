"""Change one setting in the user's settings.yaml, and nothing else of it."""

from __future__ import annotations

import json
import re
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
    try:
        path = path.resolve()
        # As bytes, so that the ends of its lines stay.
        text = path.read_bytes().decode("utf-8") if path.is_file() else ""
    except (RuntimeError, UnicodeDecodeError) as error:
        why = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else "is a link to itself"
        raise ConfigError(f"settings.yaml {why}") from error
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
    if isinstance(value, str) and value.isalpha():
        # Quoted only where it is such a word as on, which YAML reads as something else.
        written = yaml.safe_dump(value, allow_unicode=True).splitlines()[0]
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


def _replaced(text: str, root: Any, line: str, name: str) -> str:
    """Return the text with a field's key and value replaced, or the line added at the end."""
    newline = "\r\n" if "\r\n" in text else "\n"
    if root is None or not getattr(root, "value", None):
        if root is not None and root.start_mark.index < root.end_mark.index:
            text = text[: root.start_mark.index] + text[root.end_mark.index :]  # such as {}
        lines = [text.rstrip()] if text.strip() else []
        return newline.join([*lines, line, ""])
    if not isinstance(root.value, list):  # null, 0
        return text
    for key, value in root.value:
        if key.value == name:
            start = int(key.start_mark.index)
            return text[:start] + line + text[_end(text, value) :]
    end = _end(text, root)
    if root.flow_style:
        inside = text[: end - 1].rstrip()
        return f"{inside}{' ' if inside.endswith(',') else ', '}{line}{text[end - 1 :]}"
    indent = " " * int(root.start_mark.column)
    stop = text.find("\n", end)
    while stop >= 0 and re.match(rf"{indent}[ \t]+#", text[stop + 1 :]):
        stop = text.find("\n", stop + 1)  # a comment that belongs to the last field's value
    head, tail = (text, "") if stop < 0 else (text[:stop].removesuffix("\r"), text[stop + 1 :])
    return f"{head}{newline}{indent}{line}{newline}{tail}"


def _end(text: str, node: Any) -> int:
    """Return where a node ends: the end that YAML gives a block is that of what follows it."""
    if isinstance(node.value, list) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    end = int(node.end_mark.index)
    return len(text[:end].rstrip()) if getattr(node, "style", None) in ("|", ">") else end
