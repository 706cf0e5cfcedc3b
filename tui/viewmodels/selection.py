"""The selected checkpoints, which every screen of the app shares. No widgets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from rich.cells import cell_len

from kdharness.harness.util.text import safe_text

if TYPE_CHECKING:
    from kdharness.harness.store import Store
    from kdharness.harness.types import Checkpoint

LIMIT = 4
"""As many as Compare has columns for, and a chart has colours."""


@dataclass(frozen=True)
class Selection:
    """Checkpoints in the order they were marked: the first is the base of comparisons.

    A run without a checkpoint is in it by its own name, and becomes its checkpoint later.
    """

    names: tuple[str, ...] = ()
    at: int = 1

    @property
    def base(self) -> str:
        """The checkpoint that others are compared with."""
        return self.names[0] if self.names else ""

    @property
    def other(self) -> str:
        """The checkpoint that is compared with the base."""
        return self.names[self.at] if self.at < len(self.names) else ""

    @property
    def is_pair(self) -> bool:
        """Whether there is something to compare."""
        return len(self.names) > 1

    def toggled(self, name: str) -> Selection:
        """Return the selection with this name added, or removed."""
        if name not in self.names:
            return Selection((*self.names, name), self.at)
        kept = tuple(n for n in self.names if n != name)
        other = self.other
        return Selection(kept, kept.index(other) if other in kept[1:] else 1)

    def swapped(self) -> Selection:
        """Return the selection with the base and the other one exchanged."""
        if not self.other:
            return self
        names = list(self.names)
        names[0], names[self.at] = names[self.at], names[0]
        return Selection(tuple(names), self.at)

    def turned(self, by: int) -> Selection:
        """Return the selection with the next or previous one compared with the base."""
        count = len(self.names) - 1
        return Selection(self.names, 1 + (self.at - 1 + by) % count) if count > 0 else self

    def known(self, store: Store) -> Selection:
        """Return the selected checkpoints under their own names, without runs that have none."""
        found = dict.fromkeys(c.name for name in self.names if (c := store.checkpoint(name)))
        other = store.checkpoint(self.other) if self.other else None
        names = tuple(found)
        at = names.index(other.name) if other is not None and other.name in names[1:] else 1
        return Selection(names, at)

    def settled(self, store: Store) -> Selection:
        """Return the selection with runs replaced by the checkpoints they have made since.

        What was deleted is no longer in it.
        """
        found = {n: store.checkpoint(n) for n in self.names}
        names = {n: c.name if c else n for n, c in found.items() if c or store.run(n)}
        kept = tuple(dict.fromkeys(names.values()))
        other = names.get(self.other, "")
        return Selection(kept, kept.index(other) if other in kept[1:] else 1)

    def chip(self, room: int) -> list[tuple[str, bool]]:
        """Return the chip's parts within this many cells, and whether each is being compared."""
        if not self.names:
            return []
        words = [("vs" if index == 1 else "," if index else "") for index in range(len(self.names))]
        fixed = sum(len(word) + 1 + (word == "vs") for word in words if word)
        widths = [cell_len(_plain(name)) for name in self.names]
        fitting = (
            n for n in range(max(widths), 3, -1) if sum(min(w, n) for w in widths) <= room - fixed
        )
        size = next(fitting, 3)
        parts = []
        for index, (word, name) in enumerate(zip(words, self.names, strict=True)):
            before = f" {word} " if word == "vs" else f"{word} " if word else ""
            parts.append((before, False))
            parts.append((shortened(name, size), index in (0, self.at)))
        return [part for part in parts if part[0]]


def _plain(text: str) -> str:
    return safe_text(text).replace("\n", " ").replace("\t", " ")


def shortened(text: str, width: int) -> str:
    """Return a name cut in its middle, because both of its ends tell names apart."""
    text = _plain(text)
    if cell_len(text) <= width:
        return text
    head, tail = "", ""
    room = max(width - 1, 0)
    for char in text:
        if cell_len(head + char) > (room + 1) // 2:
            break
        head += char
    for char in reversed(text):
        if cell_len(head + char + tail) > room:
            break
        tail = char + tail
    return f"{head}…{tail}"


def newest_pair(
    checkpoints: Sequence[Checkpoint], groups: Iterable[Mapping[str, object]], base: str = ""
) -> tuple[str, ...]:
    """Return the two newest checkpoints that were scored on the same benchmark by the same judge.

    The older one comes first. Without such a pair it is the newest one that was scored, alone.

    Args:
        checkpoints: of the store, oldest first.
        groups: of judgments.
        base: a checkpoint that is one of the two, and comes first.
    """
    scored: dict[str, set[tuple[object, ...]]] = {}
    for group in groups:
        key = (group["bench"], group["revision"], group["judge"])
        scored.setdefault(str(group["checkpoint"]), set()).add(key)
    known = [c for c in reversed(checkpoints) if c.id in scored]
    if base:
        first = next((c for c in known if c.name == base), None)
        pairs = [(c, first) for c in known if first is not None and c is not first]
    else:
        pairs = list(combinations(known, 2))
    for newer, older in pairs:
        if scored[newer.id] & scored[older.id]:
            return older.name, newer.name
    return (base,) if base else tuple(c.name for c in known[:1])
