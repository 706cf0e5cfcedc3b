"""A text in the user's editor: arguments, failures, and what comes back."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from kdharness.tui.editor import Edited, edit, editor_command

SetEditor = Callable[..., None]


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetEditor:
    """Set EDITOR to a script in Python, in a folder whose name has a space."""
    monkeypatch.delenv("VISUAL", raising=False)

    def use(body: str, arguments: str = "--wait") -> None:
        script = tmp_path / "my editors" / "edit.py"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"import sys\nfile = sys.argv[-1]\n{body}\n")
        monkeypatch.setenv("EDITOR", f"'{sys.executable}' '{script}' {arguments}")

    return use


def test_visual_comes_first_and_may_have_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert editor_command({"VISUAL": "code --wait", "EDITOR": "nano"}) == ["code", "--wait"]
    assert editor_command({"VISUAL": " ", "EDITOR": "emacs -nw"}) == ["emacs", "-nw"]
    monkeypatch.setenv("HOME", "/home/me")
    assert editor_command({"EDITOR": "~/bin/ed $HOME/x -a ''"}) == [
        "/home/me/bin/ed",
        "/home/me/x",
        "-a",
        "",
    ]
    assert editor_command({"EDITOR": "'/opt/my editor/ed' -f"}) == ["/opt/my editor/ed", "-f"]


def test_the_text_comes_back_as_saved_and_the_terminal_was_given_away(editor: SetEditor) -> None:
    editor("text = open(file).read()\nopen(file, 'w').write(text + sys.argv[1] + '\\n\\nend')")
    seen = []

    @contextmanager
    def suspended() -> Iterator[None]:
        seen.append("suspended")
        yield
        seen.append("resumed")

    assert edit("a: 1\n", "kd.yaml", suspended()) == Edited("a: 1\n--wait\n\nend")
    assert seen == ["suspended", "resumed"]


@pytest.mark.parametrize(
    ("body", "text", "problem"),
    [
        ("open(file, 'w').write('kept')\nsys.exit(3)", "kept", "ended with code 3"),
        ("import os\nos.remove(file)", "old", "cannot be read"),
        ("open(file, 'wb').write(b'\\xff\\xfe')", "old", "cannot be read"),
        ("open(file, 'wb').write(b'\\xef\\xbb\\xbfnew')", "new", ""),
        ("", "old", "returned at once"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "old", "ended with code -9"),
    ],
)
def test_a_failing_editor_loses_nothing(
    editor: SetEditor, body: str, text: str, problem: str
) -> None:
    editor(body)
    edited = edit("old", "kd.yaml", nullcontext())
    assert (
        edited.text == text and problem in edited.problem and bool(problem) == bool(edited.problem)
    )


def test_an_editor_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "no-such-editor -w")
    edited = edit("old", "kd.yaml", nullcontext())
    assert edited == Edited("old", "no-such-editor cannot be started: No such file or directory")
    monkeypatch.setenv("VISUAL", "'open quote")
    assert "VISUAL or EDITOR cannot be read" in edit("old", "x.yaml", nullcontext()).problem
    monkeypatch.delenv("VISUAL")
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "set VISUAL or EDITOR" in edit("old", "x.yaml", nullcontext()).problem


def test_ctrl_c_in_the_editor_does_not_end_the_app(editor: SetEditor) -> None:
    """The terminal sends it to both."""
    parent = os.getpid()
    editor(f"import os, signal\nos.kill({parent}, signal.SIGINT)\nopen(file, 'w').write('new')")
    before = signal.getsignal(signal.SIGINT)
    assert edit("old", "kd.yaml", nullcontext()) == Edited("new")
    assert signal.getsignal(signal.SIGINT) is before
