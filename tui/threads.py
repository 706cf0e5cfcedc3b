"""Slow work in threads that never block a key, or quitting the app.

Threads are daemons: `q` quits at once, whatever is being read. Results arrive as messages, and are
dropped if their screen is gone. Reading the same thing twice concurrently is pointless, so of the
requests that arrive during a read only the newest one runs afterwards.
"""

from __future__ import annotations

import sqlite3
import threading
import traceback
from collections.abc import Callable
from typing import Any

from rich.text import Text
from textual.app import App

from kdharness.harness.errors import KDHarnessError
from kdharness.harness.paths import Paths
from kdharness.harness.util.os_errors import as_user_error
from kdharness.harness.util.redact import redact

Work = Callable[[], Any]
Done = Callable[[Any], Any]


class Background(App[None]):
    """The app's threads."""

    paths: Paths

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trouble: KDHarnessError | None = None
        self._working = 0
        self._reading: set[str] = set()
        self._waiting: dict[str, tuple[Work, Done]] = {}

    def _handle_exception(self, error: Exception) -> None:
        """Exit with a message for errors a user can fix, and with a traceback for bugs."""
        self.trouble = as_user_error(error, self.paths.home)
        if self.trouble is None:
            super()._handle_exception(error)
        else:
            self.exit(return_code=self.trouble.exit_code)

    def _fatal_error(self) -> None:
        """Print a plain traceback: Textual's own shows local variables, including API keys."""
        self.bell()
        text = redact(traceback.format_exc(), shapes=True)
        self._exit_renderables.append(Text(text.rstrip()))
        self._close_messages_no_wait()

    @property
    def busy(self) -> bool:
        """Whether any thread is still running."""
        return self._working > 0

    def complain(self, message: str) -> None:
        """Show an error notification."""

    def in_thread(
        self, work: Work, done: Done | None = None, *, failed: Callable[[str], Any] | None = None
    ) -> None:
        """Run slow work in a thread; errors a user can fix are shown, not raised."""
        self._working += 1

        def body() -> None:
            try:
                result = work()
            except (KDHarnessError, OSError, sqlite3.Error) as error:
                text = str(error)
                self.call_later(self._ended, failed or self.complain, text)
            except BaseException as error:
                # A bug: raised in the app like any other, not lost in a thread.
                self.call_later(self._raise, error)
            else:
                self.call_later(self._ended, done, result)

        threading.Thread(target=body, daemon=True).start()

    async def _ended(self, then: Done | None, result: object) -> None:
        self._working -= 1
        if then is not None:
            outcome = then(result)
            if hasattr(outcome, "__await__"):
                await outcome

    def _raise(self, error: BaseException) -> None:
        self._working -= 1
        raise error

    def read(self, name: str, work: Work, show: Done) -> None:
        """Read something for the screen; requests with the same name run one at a time."""
        if name in self._reading:
            self._waiting[name] = (work, show)
            return
        self._reading.add(name)

        def start_next() -> None:
            self._reading.discard(name)
            if name in self._waiting:
                self.read(name, *self._waiting.pop(name))

        def done(result: object) -> None:
            start_next()
            show(result)

        def failed(message: str) -> None:
            start_next()
            self.complain(message)

        self.in_thread(work, done, failed=failed)
