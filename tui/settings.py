"""The app's part of `settings.yaml`: theme and keys.

```yaml
theme: light            # dark, light, ansi, high-contrast
primary: {domain: "shop:score"}   # what leads tables and charts; general too
keep: 0.98              # the share of the general score that the answer asks for
group: experiment       # what Runs is grouped by; or a field such as trainer.learning_rate
columns: {first: ["shop:score"], hidden: []}   # the leaderboard's, by bench:metric@judge
keys:                   # action name: its key(s), see F1
  runs.new: c
  app.quit: q,f12
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.tui.settings_file import save_setting
from kdharness.tui.themes import THEMES

AXES = ("general", "domain")
"""What a primary metric can be chosen for."""
KEEP, MOST_KEPT = 0.98, 10.0
"""The retention that the answer asks for by default, and the highest one that can be set."""


@dataclass(frozen=True)
class AppSettings:
    """The app's settings; `problem` describes what was invalid."""

    theme: str = "dark"
    primary: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    rings: bool = True
    problem: str = ""
    keep: float = KEEP
    group: str = ""
    columns: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


def read_settings(paths: Paths) -> AppSettings:
    """Read the settings, or return defaults with a problem; load YAML only if there is a file."""
    if not paths.settings.is_file():
        return AppSettings()
    from kdharness.harness.util.untrusted import CONFIG_BYTES, parse_yaml, read_text

    try:
        text = read_text(paths.settings, "the settings", limit=CONFIG_BYTES)
        values: Any = parse_yaml(text, "settings.yaml") or {}
    except ConfigError as error:
        return AppSettings(problem=f"cannot read settings.yaml: {error}")
    if not isinstance(values, dict):
        return AppSettings(problem="settings.yaml must be a mapping")
    problems = []
    theme = values.get("theme") or "dark"
    if not isinstance(theme, str) or theme not in THEMES:
        problems.append(f"settings.yaml: unknown theme {theme!r}; use one of {', '.join(THEMES)}")
        theme = "dark"
    keys = values.get("keys") or {}
    if not isinstance(keys, dict):
        problems.append("settings.yaml: keys must be a mapping of action to key")
        keys = {}
    primary = values.get("primary") or {}
    if not isinstance(primary, dict) or not {*primary} <= {*AXES}:
        problems.append("settings.yaml: primary takes general and domain, each a bench:metric")
        primary = {}
    keep = KEEP if values.get("keep") is None else values["keep"]
    if isinstance(keep, bool) or not isinstance(keep, (int, float)) or not 0 <= keep <= MOST_KEPT:
        problems.append(f"settings.yaml: keep must be a share such as {KEEP}, not {keep!r}")
        keep = KEEP
    group = values.get("group") or ""
    if not isinstance(group, str):
        problems.append("settings.yaml: group must be experiment, status, kind or a config field")
        group = ""
    columns = values.get("columns") or {}
    if not _is_arrangement(columns):
        problems.append("settings.yaml: columns takes first and hidden, each a list of metrics")
        columns = {}
    chosen = {str(axis): str(label) for axis, label in primary.items() if label}
    notify = values.get("notify")
    rings = not (isinstance(notify, dict) and notify.get("terminal") is False)
    mapping = {str(action): str(key) for action, key in keys.items() if key}
    return AppSettings(
        str(theme),
        chosen,
        mapping,
        rings,
        "; ".join(problems),
        float(keep),
        group,
        tuple(columns.get("first") or ()),
        tuple(columns.get("hidden") or ()),
    )


def _is_arrangement(columns: object) -> bool:
    """Return whether this orders and hides columns."""
    if not isinstance(columns, dict) or not {*columns} <= {"first", "hidden"}:
        return False
    lists = [names for names in columns.values() if names is not None]
    return all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists
    )


def save_theme(paths: Paths, name: str) -> None:
    """Save the chosen theme, leaving the rest of the file unchanged."""
    save_setting(paths.settings, "theme", name)


def save_primary(paths: Paths, primary: Mapping[str, str]) -> None:
    """Save the primary metrics, leaving the rest of the file unchanged."""
    save_setting(paths.settings, "primary", dict(primary))


def save_keep(paths: Paths, keep: float) -> None:
    """Save the retention asked for, leaving the rest of the file unchanged."""
    save_setting(paths.settings, "keep", float(f"{keep:g}"))


def save_group(paths: Paths, group: str) -> None:
    """Save what runs are grouped by, leaving the rest of the file unchanged."""
    save_setting(paths.settings, "group", group)


def save_columns(paths: Paths, first: Sequence[str], hidden: Sequence[str]) -> None:
    """Save the columns of the leaderboard, leaving the rest of the file unchanged."""
    arranged = {"first": list(first), "hidden": list(hidden)}
    save_setting(paths.settings, "columns", arranged)
