"""Write `docs/config.md` from the config models: `python docs/make_config_reference.py`.

Titles, descriptions, defaults and bounds are those of the pydantic models, which also make the
app's forms. `make docs` runs this; a test compares the page. `--check` writes nothing and fails
when the page is out of date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kdharness.harness.config.training import CONFIGS
from kdharness.harness.experiments.expand import SweepConfig

PAGE = Path(__file__).parent / "config.md"
HEAD = """# Config reference

Generated from the config models by `make docs`; a test compares it with them. \
`kdharness config init PRESET` writes a config to start from, `kdharness config show FILE` prints \
it with every default, `kdharness config check FILE` names what is wrong in it, and `--set \
A.B=VALUE` changes one field on the command line. `kdharness config schema METHOD` prints a JSON \
Schema, with which an editor completes fields and marks mistakes: in a file that `config init \
PRESET --output FILE` wrote, yaml-language-server (VS Code, Neovim, Helix) finds it by \
itself.

A config is one YAML mapping, and its `method` decides which fields it has. An unknown field is an \
error. A setting that another one leaves without effect, such as `beta` with `divergence: \
forward_kl`, is named by `config check`, by `plan` and in the run's log. A string stands for a \
mapping where only one field matters: `teacher: NAME` is `teacher: {model: NAME}`, and `train: \
FILE` is `train: [{path: FILE}]`. Relative paths are looked up beside the config, then in the \
working directory.
"""
ROOTS: dict[str, type[BaseModel]] = {**CONFIGS, "sweep": SweepConfig}
INTRODUCED = {
    "sweep": "An experiment: the file of `kdharness sweep` ([experiments.md](experiments.md))."
}
"""Root models whose docstring is written for readers of the code."""
WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
}
BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
}


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the config models inside an annotation such as `X | None` or `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from models_of(part)


def sections() -> dict[type[BaseModel], str]:
    """Return every model with its heading: its method, else the path of the field that holds it.

    One field may hold different models (`trainer`); the method then tells them apart, and a
    model comes after the one that it extends.
    """
    places: dict[type[BaseModel], tuple[str, str]] = {}

    def walk(model: type[BaseModel], method: str, above: str = "") -> None:
        for name, field in model.model_fields.items():
            path = f"{above}{field.alias or name}"
            for below in models_of(field.annotation):
                if below not in places:
                    places[below] = (path, method)
                    walk(below, method, f"{path}.")

    for method, root in ROOTS.items():
        walk(root, method)
    paths = [path for path, _ in places.values()]
    order = sorted(places, key=lambda model: (paths.index(places[model][0]), len(model.__mro__)))
    headings = {root: f"method: {method}" for method, root in ROOTS.items()}
    for model in order:
        path, method = places[model]
        headings[model] = path if paths.count(path) == 1 else f"{path} ({method})"
    return headings


def anchor(heading: str) -> str:
    """Return the anchor that GitHub and the docs site give a heading."""
    kept = "".join(c for c in heading.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def link(model: type[BaseModel], headings: Mapping[type[BaseModel], str]) -> str:
    """Return a link to a model's section."""
    return f"[{headings[model]}](#{anchor(headings[model])})"


def kind_of(schema: Mapping[str, Any], links: Mapping[str, str]) -> str:
    """Return a field's type and bounds in words, from its JSON schema."""
    if "$ref" in schema:
        return links[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        kinds = [kind_of(part, links) for part in schema["anyOf"] if part != {"type": "null"}]
        return " or ".join(kinds)
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{value}`" for value in values)
    kind = schema.get("type")
    if kind == "array":
        some = "non-empty list" if schema.get("minItems") else "list"
        return f"{some} of {kind_of(schema['items'], links)}"
    if kind == "object":
        below = schema.get("additionalProperties")
        return f"mapping to {kind_of(below, links)}" if isinstance(below, dict) else "mapping"
    bounds = [sign.format(f"{schema[key]:.12g}") for key, sign in BOUNDS.items() if key in schema]
    if "pattern" in schema:
        bounds.append(f"matching `{schema['pattern']}`")
    return " ".join([WORDS[str(kind)], ", ".join(bounds)]).strip()


def default_of(model: type[BaseModel], name: str) -> str:
    """Return a field's default as YAML has it; a dash for none and for empty ones."""
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None or value in ([], {}, ""):
        return "–"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def cell(text: str) -> str:
    """Return text that stays inside its table cell and is not taken for HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def table(model: type[BaseModel], headings: Mapping[type[BaseModel], str]) -> Iterator[str]:
    """Yield the lines of a model's fields, without those of a base that has its own section."""
    links = {known.__name__: link(known, headings) for known in headings}
    base: Any = next((known for known in model.__mro__[1:] if known in headings), None)
    properties = model.model_json_schema(by_alias=True)["properties"]
    if base is not None:
        yield f"Every field of {link(base, headings)}, and:"
        yield ""
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        inherited = base is not None and name in base.model_fields
        if inherited and default_of(model, name) == default_of(base, name):
            continue
        title = f"**{field.title}**" if field.title else ""
        meaning = ": ".join(filter(None, (title, field.description)))
        shown = field.alias or name
        kind = kind_of(properties[shown], links)
        yield f"| `{shown}` | {cell(kind)} | {cell(default_of(model, name))} | {cell(meaning)} |"


def page() -> str:
    """Return the whole page."""
    headings = sections()
    lines = [HEAD]
    for model, heading in headings.items():
        method = heading.removeprefix("method: ")
        words = INTRODUCED.get(method) or (model.__doc__ or "").strip().split("\n\n")[0]
        lines += [f"## {heading}", "", " ".join(words.split()), "", *table(model, headings), ""]
    return "\n".join(lines)


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description="docs/config.md from the config models.")
    parser.add_argument("--check", action="store_true", help="Compare, write nothing.")
    text = page()
    if parser.parse_args().check:
        return int(not PAGE.exists() or PAGE.read_text("utf-8") != text)
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
