"""Forms that keep what was typed: left by any key, they come back as they were."""

from __future__ import annotations

from typing import Any

from kdharness.harness.config.training import known_config
from kdharness.harness.errors import ConfigError
from kdharness.tui.drafts import Draft, keep_draft, read_drafts
from kdharness.tui.screens.base import PlaceScreen


class Drafting(PlaceScreen):
    """A screen with values that are stored as a draft until they are started.

    `unread` is text that an editor left and that is no config yet.
    """

    values: dict[str, Any]
    base: dict[str, Any]
    origin: str
    kept: dict[str, Any]
    unread = ""
    kept_text = ""

    def on_screen_suspend(self) -> None:
        """Keep what was changed: another screen is shown."""
        self.keep_draft()

    def on_unmount(self) -> None:
        """Keep what was changed: the form or the app is closed."""
        self.keep_draft()

    def keep_draft(self) -> None:
        """Store the values unless they are those that were stored or loaded last."""
        if (self.values, self.unread) == (self.kept, self.kept_text):
            return
        self.kept, self.kept_text = self.values, self.unread
        draft = Draft(self.origin, self.values, self.base, self.unread)
        try:
            keep_draft(self.harness.paths, self.place, draft)
        except OSError as error:
            self.harness.complain(f"the draft was not saved: {error}")

    def restore(self, origin: str | None = None) -> bool:
        """Take over the draft of this origin, or the newest one; return whether there was any."""
        drafts = read_drafts(self.harness.paths, self.place)
        draft = next(reversed(drafts.values()), None) if origin is None else drafts.get(origin)
        try:
            if draft is None or not known_config(draft.values["method"]):
                return False
        except ConfigError:  # the method of a package that is gone
            return False
        self.values, self.base, self.origin = draft.values, draft.base, draft.origin
        self.kept, self.unread, self.kept_text = draft.values, draft.text, draft.text
        return True

    def has_started(self) -> None:
        """Drop the draft: what it describes has been started."""
        try:
            keep_draft(self.harness.paths, self.place, Draft(self.origin))
        except OSError as error:
            self.harness.complain(f"the draft was not dropped: {error}")
        self.kept, self.unread, self.kept_text = self.values, "", ""
