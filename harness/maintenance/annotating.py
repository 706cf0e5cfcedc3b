"""Tags and notes on runs and checkpoints; for commands and the app."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kdharness.harness.errors import ConfigError
from kdharness.harness.maintenance.records import find
from kdharness.harness.store import Store
from kdharness.harness.store.removal import Annotation, Subject

TAG = re.compile(r"[\w.:/+@#][\w.:/+@#-]{0,63}")
NOTE_CHARACTERS = 10_000


def subject_of(store: Store, name: str) -> Subject:
    """Return what a name's tags and note belong to. Raises ConfigError for an unknown name."""
    run, checkpoint = find(store, name)
    if run is not None:
        return "run", run.id
    assert checkpoint is not None
    return "checkpoint", checkpoint.id


def annotation_of(store: Store, name: str) -> Annotation:
    """Return the tags and the note of a run or checkpoint."""
    return store.annotations().get(subject_of(store, name), Annotation())


def change_tags(
    store: Store, name: str, add: Iterable[str] = (), remove: Iterable[str] = ()
) -> Annotation:
    """Add and remove tags of a run or checkpoint; return what it has then.

    Raises:
        ConfigError: an unknown name, an invalid tag, or one to remove that it does not have.
    """
    current = annotation_of(store, name)
    added, removed = list(add), list(remove)
    for tag in added:
        if not TAG.fullmatch(tag):
            raise ConfigError(
                f"invalid tag {tag[:80]!r}",
                hint="use up to 64 letters, digits and . : / + @ # - _",
            )
    for tag in removed:
        if tag not in current.tags:
            hint = f"its tags: {', '.join(current.tags) or 'none'}"
            raise ConfigError(f"{name} has no tag {tag!r}", hint=hint)
    tags = tuple(sorted({*current.tags, *added} - set(removed)))
    changed = Annotation(tags, current.note)
    store.annotate(subject_of(store, name), changed)
    return changed


def change_note(store: Store, name: str, note: str) -> None:
    """Replace the note of a run or checkpoint; an empty one removes it.

    Raises:
        ConfigError: an unknown name, or a note that is too long.
    """
    if len(note) > NOTE_CHARACTERS:
        raise ConfigError(f"a note has at most {NOTE_CHARACTERS:,} characters")
    current = annotation_of(store, name)
    store.annotate(subject_of(store, name), Annotation(current.tags, note.strip()))
