"""Slow work in threads that never hold up a key, nor the end of the app.

Threads are daemons: `q` quits at once, whatever is being read. Results come back as messages, and
are dropped when nobody is there any more. Reading the same thing twice at a time is pointless, so
a request that comes meanwhile waits for its turn, and only the newest one does.
"""

from __future__ import annotations

import sqlite3
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.text import Text
from textual.app import App

from kdharness.harness.errors import KDHarnessError
from kdharness.harness.util.os_errors import as_user_error
from kdharness.harness.util.redact import redact

Work = Callable[[], Any]
Done = Callable[[Any], Any]


class Background(App[None]):
    """The app's threads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.home = Path()
        self.trouble: KDHarnessError | None = None
        self._working = 0
        self._reading: set[str] = set()
        self._waiting: dict[str, tuple[Work, Done]] = {}

    def _handle_exception(self, error: Exception) -> None:
        """What the user can mend ends the app in words; a fault of ours in a traceback."""
        self.trouble = as_user_error(error, self.home)
        if self.trouble is None:
            super()._handle_exception(error)
        else:
            self.exit(return_code=self.trouble.exit_code)

    def _fatal_error(self) -> None:
        """A plain traceback: Textual's own shows the values of variables, keys among them."""
        self.bell()
        text = redact(traceback.format_exc(), shapes=True)
        self._exit_renderables.append(Text(text.rstrip()))
        self._close_messages_no_wait()

    @property
    def busy(self) -> bool:
        """Whether any thread still works."""
        return self._working > 0

    def complain(self, message: str) -> None:
        """Say what went wrong."""

    def in_thread(
        self, work: Work, done: Done | None = None, *, failed: Callable[[str], Any] | None = None
    ) -> None:
        """Do something slow; what the user can mend is told, not raised."""
        self._working += 1

        def body() -> None:
            try:
                result = work()
            except (KDHarnessError, OSError, sqlite3.Error) as error:
                text = str(error)
                self.call_later(self._ended, failed or self.complain, text)
            except BaseException as error:
                # A fault of ours: shown by the app as any other, not lost in a thread.
                self.call_later(self._raise, error)
            else:
                self.call_later(self._ended, done, result)

        threading.Thread(target=body, daemon=True).start()

    async def _ended(self, then: Done | None, result: Any) -> None:
        self._working -= 1
        if then is not None:
            waited = then(result)
            if hasattr(waited, "__await__"):
                await waited

    def _raise(self, error: BaseException) -> None:
        self._working -= 1
        raise error

    def read(self, name: str, work: Work, show: Done) -> None:
        """Read something for the screen; of requests under one name, one at a time."""
        if name in self._reading:
            self._waiting[name] = (work, show)
            return
        self._reading.add(name)

        def next_one() -> None:
            self._reading.discard(name)
            if name in self._waiting:
                self.read(name, *self._waiting.pop(name))

        def done(result: Any) -> None:
            next_one()
            show(result)

        def failed(message: str) -> None:
            next_one()
            self.complain(message)

        self.in_thread(work, done, failed=failed)
