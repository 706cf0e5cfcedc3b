"""One settings.yaml is the app's and the commands'."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.config.settings import UserSettings, load_settings
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.util.untrusted import parse_yaml
from kdharness.tui import settings
from kdharness.tui.key_check import key_problems
from kdharness.tui.settings import MOST_KEPT, read_settings
from kdharness.tui.settings_file import with_setting
from kdharness.tui.themes import THEMES
from support.app import AppOn, Press, Shown
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
    savers = {name for name, item in vars(settings).items() if name.startswith("save_")} - {
        "save_setting"
    }
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
        assert not key_problems(read_settings(paths).keys)


@pytest.mark.parametrize(
    "line",
    [
        f"keep: {MOST_KEPT + 1}",
        "keep: -0.1",
        "keep: true",
        "group: [a]",
        "columns: [a]",
        "columns: {last: []}",
    ],
)
def test_both_refuse_the_same_values(line: str, paths: Paths) -> None:
    paths.home.mkdir(parents=True, exist_ok=True)
    paths.settings.write_text(line, "utf-8")
    assert read_settings(paths).problem
    with pytest.raises(ConfigError):
        load_settings(paths)


@pytest.mark.parametrize(
    "line", ["group:", "theme:", "keep:", "columns:", "columns: {first: }", "keys:", "keep: 1"]
)
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


# ---------------------------------------------------------------- the file itself

FILES = [
    *("", "# only a comment\n", "---\n", "{}", "theme: dark", "theme: dark  # mine\n# end"),
    "columns:\n  first: [a]\n\n  hidden: [b]\nkeep: .5\n",
    *("columns:\n- x\nkeys: {}\n", "columns:\n# why\n  first: [a]\ntheme: dark\n"),
    *("'keep': 0.5\n", "keep : 0.5\n", "\ufefftheme: dark\n", "{theme: dark, keep: 1}\n"),
    *("---\ntheme: dark\n...\n", "  theme: dark\n  keep: .4\n", "theme: >\n  dark\n\nkeys: {}\n"),
    *("primary: {general: a,\n  domain: b}\ntheme: dark\n", "primary:\ngroup: null  # x\n"),
    *("keys:\n  app.quit: z\n  # runs.stop: k\n# end\n", "{theme: dark,}\n", "# c\n{}\n"),
    *("theme: dark\r\nkeys:\r\n  app.quit: z\r\n", 'alerts: ["loss above 5"]\ntheme: "dark"\n'),
]
VALUES: dict[str, Any] = {
    "theme": "light",
    "keep": 0.9,
    "group": "on",
    "primary": {"domain": "grün: #1"},
    "columns": {"first": ["a, b"], "hidden": []},
}


@pytest.mark.parametrize("text", FILES)
def test_one_setting_changes_and_nothing_else(text: str) -> None:
    """A change once left half of a nested value, or an end mark in the middle, behind."""
    for name, value in VALUES.items():
        before, after = yaml.safe_load(text) or {}, with_setting(text, name, value)
        assert yaml.safe_load(after) == {**before, name: value}
        assert list(yaml.safe_load(after)) == list({**before, name: value})
        comments = set(re.findall(r"(?m)^#.*$|  #.*$", text))
        assert name == "columns" or comments <= set(re.findall(r"(?m)^#.*$|  #.*$", after))
        assert after.count("\r\n") == (after.count("\n") if "\r" in text else 0)
        assert with_setting(after, name, value) == after


@given(
    st.dictionaries(
        st.sampled_from([*VALUES, "judge", "keys"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=6,
        ),
    ),
    st.sampled_from([True, False, None]),
    st.sampled_from(sorted(VALUES)),
)
def test_any_file_keeps_its_other_settings(
    values: dict[str, Any], flow: bool | None, name: str
) -> None:
    text = yaml.safe_dump(values, default_flow_style=flow, allow_unicode=True)
    try:
        changed = with_setting(text, name, VALUES[name])
    except ConfigError:
        assert "&" in text or not_read_alike(text)
        return
    # PyYAML reads some line breaks back as others.
    assert yaml.safe_load(changed) == {**yaml.safe_load(text), name: VALUES[name]}


def not_read_alike(text: str) -> bool:
    """Return whether our own reader of YAML refuses a file, as it does with some numbers."""
    try:
        return bool(parse_yaml(text, "") != yaml.safe_load(text))
    except ConfigError:
        return True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("theme: dark\ntheme: dark\n", "duplicate field 'theme'"),
        ("- a\n", "must be a mapping"),
        ("theme: [dark\n", "invalid YAML"),
        *((text, "write this into it: theme: light") for text in ("null", "0\n", "--- ~\n")),
        ("theme: &t dark\njudge: *t\n", "write this into it: theme: light"),
    ],
)
def test_a_file_that_cannot_be_changed_is_left_alone(text: str, message: str, paths: Paths) -> None:
    paths.home.mkdir(parents=True, exist_ok=True)
    paths.settings.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=re.escape(message)):
        settings.save_theme(paths, "light")
    assert paths.settings.read_text("utf-8") == text


def test_bytes_and_links_that_cannot_be_read(paths: Paths) -> None:
    paths.home.mkdir(parents=True, exist_ok=True)
    paths.settings.write_bytes("# grün\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        settings.save_theme(paths, "light")
    paths.settings.unlink()
    paths.settings.symlink_to(paths.settings)
    with pytest.raises((ConfigError, OSError)):
        settings.save_theme(paths, "light")


def test_a_link_stays_a_link_and_the_mode_stays(paths: Paths, tmp_path: Path) -> None:
    """Settings are often links into a folder under version control."""
    kept = tmp_path / "dotfiles" / "kdharness.yaml"
    kept.parent.mkdir()
    kept.write_bytes(b"# mine\r\ntheme: dark  # at night\r\n")
    kept.chmod(0o600)
    paths.home.mkdir(parents=True, exist_ok=True)
    paths.settings.symlink_to(kept)
    settings.save_theme(paths, "light")
    assert paths.settings.is_symlink() and kept.stat().st_mode & 0o777 == 0o600
    assert kept.read_bytes() == b"# mine\r\ntheme: light  # at night\r\n"
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


@pytest.mark.slow
async def test_the_app_says_that_a_choice_was_not_saved(
    filled: Paths, app_on: AppOn, press: Press, notified: Shown
) -> None:
    filled.settings.write_text("theme: &t dark\njudge: *t\n", "utf-8")
    app = app_on(filled)
    async with app.run_test(size=(120, 40)) as pilot:
        await press(pilot, "t")
        assert "write this into it: theme: light" in notified(app)
    assert "&t dark" in filled.settings.read_text("utf-8")
