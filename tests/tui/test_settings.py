"""One settings.yaml is the app's and the commands'."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from kdharness.harness.config.settings import UserSettings, load_settings
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.tui import settings
from kdharness.tui.settings import MOST_KEPT, read_settings
from kdharness.tui.themes import THEMES
from support.commands import CommandLine

PAGE = Path(__file__).parents[2] / "docs" / "app.md"


def save_everything(paths: Paths) -> None:
    paths.home.mkdir(parents=True, exist_ok=True)
    settings.save_theme(paths, "light")
    settings.save_primary(paths, {"domain": "shop:score"})
    settings.save_keep(paths, 0.9)
    settings.save_group(paths, "trainer.learning_rate")
    settings.save_columns(paths, ["shop:score"], ["ifeval:inst_loose"])


def test_commands_accept_whatever_the_app_saves(paths: Paths, kd: CommandLine) -> None:
    """After a retention was chosen in the app, no evaluation started any more."""
    save_everything(paths)
    kept = load_settings(paths)
    assert (kept.keep, kept.group) == (0.9, "trainer.learning_rate")
    assert kept.columns.first == ["shop:score"] and kept.theme == "light"
    code, _, err = kd("eval", "--ckpt", "none", "--bench", "shop")
    assert code and "no model named 'none'" in err and "settings" not in err
    _, out, _ = kd("doctor", "--format", "json")
    assert '"settings"' in out and "known keys" not in out


def test_every_setting_that_the_app_saves_is_tried_here() -> None:
    savers = {name for name, item in vars(settings).items() if name.startswith("save_")}
    assert savers == set(re.findall(r"settings\.(save_\w+)", inspect.getsource(save_everything)))


def test_the_app_reads_no_setting_that_commands_refuse() -> None:
    own = {field.name for field in fields(settings.AppSettings)} - {"rings", "problem", "hidden"}
    assert own <= set(UserSettings.model_fields)


@pytest.mark.parametrize("text", [settings.__doc__ or "", PAGE.read_text("utf-8")])
def test_documented_settings_are_accepted(text: str, paths: Paths) -> None:
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.S) if "keys:" in block]
    assert blocks
    for block in blocks:
        paths.home.mkdir(parents=True, exist_ok=True)
        paths.settings.write_text(block, "utf-8")
        assert load_settings(paths).keys and not read_settings(paths).problem


@pytest.mark.parametrize(
    "line",
    [f"keep: {MOST_KEPT + 1}", "keep: -0.1", "group: [a]", "columns: [a]", "columns: {last: []}"],
)
def test_both_refuse_the_same_values(line: str, paths: Paths) -> None:
    paths.home.mkdir(parents=True, exist_ok=True)
    paths.settings.write_text(line, "utf-8")
    assert read_settings(paths).problem
    with pytest.raises(ConfigError):
        load_settings(paths)


@pytest.mark.parametrize("line", ["group:", "columns:", "columns: {first: }", "keys:", "keep: 1"])
def test_both_accept_the_same_values(line: str, paths: Paths) -> None:
    paths.home.mkdir(parents=True, exist_ok=True)
    paths.settings.write_text(line, "utf-8")
    assert not read_settings(paths).problem
    load_settings(paths)


def test_themes_are_checked_by_both(paths: Paths) -> None:
    paths.home.mkdir(parents=True, exist_ok=True)
    for theme in THEMES:
        paths.settings.write_text(f"theme: {theme}", "utf-8")
        assert read_settings(paths).theme == theme and load_settings(paths).theme == theme
