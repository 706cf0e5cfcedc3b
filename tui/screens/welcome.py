"""What someone sees who has no run yet: what to do first, and one key that does it all."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from kdharness.harness.paths import Paths
from kdharness.harness.util.text import safe_text


def tour_text(paths: Paths, width: int, demo: Sequence[str]) -> Text:
    """The tour; with the demo's last words once it was started."""
    text = Text()
    text.append("Make a small model that keeps what a big one knows\n\n", "bold")
    text.append(
        "Distil a student from a teacher (KD), align it to your domain without losing the rest "
        "(DAE), and see in one table what was gained and what was lost.\n\n"
    )
    if demo:
        text.append("The demo has started; its runs appear here. It says:\n", "bold")
        text.append("\n".join(safe_text(line, 200) for line in demo[-5:]) + "\n\n")
    for key, what, more in (
        (
            "d",
            "see it happen",
            "the demo trains, aligns and scores a small real model here: 20 minutes on two cores",
        ),
        ("n", "start your own run", "a form with presets, each field explained"),
        ("8", "fetch models and benchmarks", "with their licences"),
        ("9", "check this machine", "versions, memory, disk, judge"),
        ("F1", "help", "every key of the screen you are on"),
    ):
        text.append(f"  {key:>2}  ", "bold reverse" if key == "d" else "bold")
        text.append(f" {what}", "bold")
        text.append(f"  {more}\n" if width >= 100 else f"\n       {more}\n", "dim")
    text.append(f"\nEverything is kept in {paths.home}", "dim")
    return text
