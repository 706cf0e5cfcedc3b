"""What the user chose once for every screen, kept in the settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdharness.harness.errors import ConfigError
from kdharness.tui.settings import (
    AppSettings,
    save_columns,
    save_group,
    save_keep,
    save_primary,
)
from kdharness.tui.threads import Background


class Choices(Background):
    """The chosen metrics, retention, grouping and columns; screens see the change by `version`."""

    primary: dict[str, str]
    keep: float
    group: str
    columns: tuple[str, ...]
    hidden: tuple[str, ...]
    version: int

    def take_settings(self, settings: AppSettings) -> None:
        """Begin with what was chosen before."""
        self.primary, self.keep = dict(settings.primary), settings.keep
        self.group, self.columns, self.hidden = settings.group, settings.columns, settings.hidden

    def set_primary(self, axis: str, label: str) -> None:
        """Let a metric lead every screen for the domain or the general axis, and save it."""
        self.primary[axis] = label
        self._save(lambda: save_primary(self.paths, self.primary))

    def set_keep(self, keep: float) -> None:
        """Ask for another retention in every answer, and save it."""
        self.keep = keep
        self._save(lambda: save_keep(self.paths, keep))

    def set_group(self, group: str) -> None:
        """Group runs by something else, and save it."""
        self.group = group
        self._save(lambda: save_group(self.paths, group))

    def set_columns(self, first: Sequence[str], hidden: Sequence[str]) -> None:
        """Order and hide columns of the leaderboard, and save it."""
        self.columns, self.hidden = tuple(first), tuple(hidden)
        self._save(lambda: save_columns(self.paths, first, hidden))

    def _save(self, save: Callable[[], None]) -> None:
        try:
            save()
        except (ConfigError, OSError) as error:
            self.notify(f"not saved: {error}", severity="warning", markup=False)
        self.version += 1
