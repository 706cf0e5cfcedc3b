"""Escape sequences that ask a terminal for a notification."""

from __future__ import annotations

from collections.abc import Mapping

from kdharness.harness.util.text import safe_text

CHARACTERS = 200
TITLE = "kdharness"
BELL = "\a"
SILENT = ("linux", "dumb", "")
"""Values of TERM of terminals that would show the sequence as text."""


def notification(text: str, environ: Mapping[str, str]) -> str:
    """Return a bell, and a sequence for a notification that tmux and screen pass on.

    It is OSC 777 for terminals that know only that one (VTE, rxvt, foot), else OSC 9. One of them,
    because some terminals know both. Under tmux the names of the outer terminal's variables tell
    which it is, and `allow-passthrough` must be on; the bell marks the window in any case.
    """
    if environ.get("TERM", "") in SILENT:
        return BELL
    # A text that begins with a number would be a command in OSC 9.
    body = safe_text(" ".join(text.split()), CHARACTERS)
    term = environ.get("TERM", "")
    if "VTE_VERSION" in environ or term.startswith(("rxvt", "foot")):
        sequence = f"\x1b]777;notify;{TITLE};{body}\a"
    else:
        sequence = f"\x1b]9;{TITLE}: {body}\a"
    if "TMUX" in environ:
        sequence = "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    elif "STY" in environ:
        # screen ends its own string at an ESC: BEL ends the inner one.
        sequence = f"\x1bP{sequence}\x1b\\"
    return BELL + sequence
