"""The tour for a home without runs: first steps, and one key that runs the demo."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text

from kdharness.harness.paths import Paths
from kdharness.harness.util.text import safe_text


def tour_text(
    paths: Paths, width: int, demo: Sequence[str], with_keys: Callable[[str], str]
) -> Text:
    """Return the tour.

    Args:
        paths: the home.
        width: cells of a line.
        demo: the demo's last lines once it was started.
        with_keys: names the keys that the settings give to actions.
    """
    text = Text()
    text.append("Train a small model that keeps what a large one knows\n\n", "bold")
    text.append(
        "Distil a student from a teacher (KD), align it to your domain without losing general "
        "ability (DAE), and see in one table what was gained and lost.\n\n"
    )
    if demo:
        text.append("The demo is running; its runs appear here. Output:\n", "bold")
        text.append("\n".join(safe_text(line, 200) for line in demo[-5:]) + "\n\n")
    for key, what, more in (
        (
            "{runs.demo:D}",
            "run the demo",
            "trains, aligns and scores a real model here: 10 minutes on two cores",
        ),
        ("{app.new:n}", "start your own run", "a form with presets and help for each field"),
        ("{app.assets:8}", "pull models and benchmarks", "with their licences"),
        ("{app.doctor:9}", "check this machine", "versions, memory, disk, judge"),
        ("{app.help:?}", "help", "what the current screen shows, and what its keys do"),
    ):
        style = "bold reverse" if key.startswith("{runs.demo:") else "bold"
        text.append(f"  {with_keys(key):>2}  ", style)
        text.append(f" {what}", "bold")
        text.append(f"  {more}\n" if width >= 100 else f"\n       {more}\n", "dim")
    text.append(f"\nEverything is stored in {paths.home}", "dim")
    return text
