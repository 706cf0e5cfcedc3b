"""Messages of transformers while loading: advice is silenced, errors are condensed."""

from __future__ import annotations

from kdharness.harness.errors import ModelError
from kdharness.harness.util.redact import redact


class quiet_transformers:
    """Silence progress bars and advice of transformers while a model loads."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self.level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self.level)


_HINTS = (
    (
        "trust_remote_code",
        "this model needs its own code: set trust_remote_code: true if you trust its author",
    ),
    (
        "size mismatch",
        "these weights belong to a model of another shape (an adapter trained on a resized "
        "vocabulary needs the resized base model)",
    ),
    ("Target modules", "was this adapter trained on this base model?"),
    (
        "does not recognize this architecture",
        "this model is newer than the installed transformers: pip install --upgrade transformers",
    ),
    (
        "untagged enum",
        "its tokenizer.json is damaged, or newer than the installed tokenizers: "
        "pip install --upgrade tokenizers transformers",
    ),
    (
        "safetensors",
        "only safetensors weights are loaded; convert the model once with save_pretrained",
    ),
    ("pip install", "a package that this model needs is missing; see the message above"),
)
"""(text in a library's error, hint)."""


def explain(error: Exception, source: str, what: str = "model") -> ModelError:
    """Turn an error of transformers, tokenizers, safetensors or peft into one a user can fix."""
    text = redact(str(error).strip(), shapes=True) or type(error).__name__
    hint = next((hint for words, hint in _HINTS if words in text), "")
    if isinstance(error, ImportError):
        hint = dict(_HINTS)["pip install"]
    if isinstance(error, KeyError):
        # A KeyError's text is only the key.
        text = f"unknown key {text}"
    return ModelError(
        f"could not load the {what} {source!r}: {essence(text)}",
        hint=hint or "is the folder complete? kdharness doctor checks what this machine can load",
    )


def essence(text: str, limit: int = 400) -> str:
    """Condense a library's error into one line.

    Libraries often begin with a heading ("Error(s) in loading state_dict for …:") and state the
    problem on the lines below it.
    """
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if not lines:
        return "no reason given"
    first = lines[0]
    if first.endswith(":") and len(lines) > 1:
        more = f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
        first = f"{first} {lines[1]}{more}"
    return first if len(first) <= limit else first[:limit] + "…"
