"""Paths in a store: those inside its home are stored relative to it.

A home that is copied or moved then leads to its own files, and never to those of the original.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from kdharness.harness.util.filesystem import exists

INSIDE = "home:"
"""Begins a path relative to the home; neither an absolute path nor a hub id begins like this."""
FOLDERS = ("runs", "models", "assets", "cache", "sweeps")
"""Folders of a home, each of which may be a link to another disk."""


class Places:
    """Converts between the paths of a home and those that its store has."""

    def __init__(self, home: Path, former: Iterable[str] = ()) -> None:
        """Prepare for a home.

        Args:
            home: the folder of the store.
            former: where the home was before it was moved or copied here.
        """
        self.home = Path(os.path.abspath(home)).resolve()
        self.former = tuple(Path(path) for path in former if path != str(self.home))
        links = {name: self.home / name for name in FOLDERS if (self.home / name).is_symlink()}
        self._linked = {name: link.resolve() for name, link in links.items()}

    def stored(self, path: str) -> str:
        """Return a path as it is stored: relative if it is inside the home, else unchanged."""
        if not os.path.isabs(path):
            return path
        plain = Path(os.path.normpath(path))
        try:
            inside = self._inside(plain) or self._inside(plain.resolve())
        except (OSError, RuntimeError, ValueError):  # too long, a circle of links, or a NUL
            return path
        return f"{INSIDE}{inside}" if inside else path

    def _inside(self, path: Path) -> str:
        if path.is_relative_to(self.home):
            return path.relative_to(self.home).as_posix()
        for name, target in self._linked.items():
            if path.is_relative_to(target):
                return (Path(name) / path.relative_to(target)).as_posix()
        return ""

    def absolute(self, stored: str) -> str:
        """Return the path that a stored one means in this home."""
        if not stored.startswith(INSIDE):
            return stored
        first, _, rest = stored.removeprefix(INSIDE).partition("/")
        root = self._linked.get(first, self.home / first)
        return str(root / rest) if rest else str(root)

    def here(self, path: str) -> str:
        """Return where a path of the home's former place is now, if it exists; else the path."""
        if not self.former or not os.path.isabs(path):
            return path
        plain = Path(os.path.normpath(path))
        for place in self.former:
            if plain.is_relative_to(place) and not plain.is_relative_to(self.home):
                moved = self.home / plain.relative_to(place)
                if exists(moved):
                    return str(moved.resolve())
        return path

    def moved(self, value: object) -> object:
        """Apply `here` to every text in a config."""
        if isinstance(value, dict):
            return {key: self.moved(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self.moved(part) for part in value]
        return self.here(value) if isinstance(value, str) else value


def relocate(connection: sqlite3.Connection, home: Path) -> None:
    """Make the absolute paths of an older store relative to its home, in the caller's transaction.

    Where the home was before is learned from its runs: a run whose folder is in this home, but is
    stored under another, shows that the home was copied or moved. Other paths outside stay.
    """
    places = Places(home)
    former: set[Path] = set()
    for key, folder in connection.execute("SELECT id, folder FROM runs").fetchall():
        stored, old = places.stored(folder), Path(folder)
        is_moved = stored == folder and old.parts[-2:] == ("runs", key) and old.is_absolute()
        if is_moved and exists(places.home / "runs" / key, folder=True):
            former.add(old.parent.parent)
            stored = f"{INSIDE}runs/{key}"
        if stored != folder:
            connection.execute("UPDATE runs SET folder = ? WHERE id = ?", [stored, key])
    moved = Places(home, map(str, sorted(former)))
    for key, path in connection.execute("SELECT id, path FROM checkpoints").fetchall():
        stored = moved.stored(moved.here(path))
        if stored != path:
            connection.execute("UPDATE checkpoints SET path = ? WHERE id = ?", [stored, key])
    listed = [[str(place)] for place in (*sorted(former), places.home)]
    connection.executemany("INSERT OR IGNORE INTO homes (path) VALUES (?)", listed)
