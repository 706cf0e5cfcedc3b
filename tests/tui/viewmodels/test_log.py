"""A run's log as one timeline, what is found in it, and a run's error in one cell."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.runs.log_output import (
    TAIL_BYTES,
    GrowingLog,
    OutputLines,
    output_lines,
)
from kdharness.tui.viewmodels.log import LogLine, Timeline, found_parts, matches, timeline
from kdharness.tui.viewmodels.rows import Line, reason_of


def shown(lines: list[str]) -> list[str]:
    return output_lines("\n".join(lines).encode())


def test_a_progress_bar_is_one_line_in_its_last_state() -> None:
    lines = [
        "Converting tensors:   0%|          | 0/59",
        "Converting tensors:  59%|#####     | 35/59",
        "Converting tensors: 100%|##########| 59/59",
        "loaded",
        "  5%|5         | 1/20",
        " 10%|#         | 2/20",
        "Converting tensors: 100%|##########| 59/59",
    ]
    assert shown(lines) == [lines[2], "loaded", lines[5], lines[6]]


def test_nested_bars_have_one_line_each() -> None:
    """As in a public report of a terminal log that did not group them."""
    lines = [f"{name}: {n}%|#| {n}/9" for n in range(1, 9) for name in ("epochs", "batches")]
    assert shown(lines) == lines[-2:]


@pytest.mark.parametrize(
    "drawn",
    [
        "7%|#         | 7/99 [00:01<00:30, 3.2it/s]",
        "12it [00:03, 3.21it/s]",
        "1,234it[1:00:03, 3.2it/s]",
        "35.2kB/1.20GB [00:01<10:00, 35.2kB/s]",
        "99999999999999999999/2 [00:01<00:30]",
    ],
)
@pytest.mark.parametrize("name", ["", "steps", "model 1", "epoch 3 of 9", "file.7z"])
def test_bars_are_told_apart_by_their_names(name: str, drawn: str) -> None:
    line = f"{name}: {drawn}" if name else f"  {drawn}"
    between = f"{name} too: {drawn}"
    assert shown([line, between, line]) == [line, between]


@pytest.mark.parametrize(
    "line",
    [
        "1" * 200 + "/" + "1" * 200,
        "1" * 60_000,
        "1a" * 60_000,
        "1.1," * 30_000 + "/",
        ("1" * 16 + "a" * 16 + "/" + "1" * 16 + "b" * 16) * 1000,
        " " * 60_000 + "x",
        ("x" + " " * 300 + ": ") * 200,
        "1[" * 30_000,
        "1 [1:1" * 10_000,
        "{'a': " + "1" * 60_000,
        "\x1b[" + "1;" * 30_000,
        "a." * 30_000 + "x",
    ],
    ids=lambda line: f"{line.strip()[:12]!a}",
)
def test_no_line_takes_long_to_read(line: str) -> None:
    data = "\n".join([line] * max(1, TAIL_BYTES // 8 // len(line))).encode()
    began = time.thread_time()  # other processes do not count
    assert timeline([], output_lines(data))
    assert time.thread_time() - began < 2


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("/home/me/work/data/bad.jsonl:2: not JSON", "bad.jsonl:2: not JSON"),
        ("~/data/bad.jsonl: empty", "bad.jsonl: empty"),
        ("out of memory", "out of memory"),
        ("a/b is no number", "a/b is no number"),
        ("", ""),
    ],
)
def test_a_long_path_does_not_push_the_reason_out_of_a_cell(error: str, shown: str) -> None:
    assert reason_of(error) == shown


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("/home/me/work/data/bad.jsonl:2: not JSON", "not JSON"),
        ("data.jsonl, line 3: no field text", "no field text"),
        ("config: ~/a/my.yaml: trainer.epochs: too small", "trainer.epochs: too small"),
        ("openai:gpt-4.1: quota exceeded", "openai:gpt-4.1: quota exceeded"),
        ("/home/me/work/model.bin", "model.bin"),
        ("bad.py:3: x", "bad.py:3: x"),
        ("out of memory", "out of memory"),
    ],
)
def test_without_room_the_reason_comes_before_the_file(error: str, shown: str) -> None:
    assert reason_of(error, 11) == shown


def event(second: int, kind: str, message: str) -> dict[str, object]:
    """Return a stored event, so many seconds after midnight of some day."""
    day = time.mktime((2026, 5, 4, 0, 0, 0, 0, 0, -1))
    return {"time": day + second, "kind": kind, "message": message}


def texts(lines: list[LogLine]) -> list[str]:
    """Return the lines as text, without the times."""
    return [re.sub(r"^\d\d:\d\d:\d\d (\w+) +", r"\1: ", line.text) for line in lines]


def test_output_stands_between_the_events_it_was_printed_between() -> None:
    events = [
        event(5, "started", ""),
        event(7, "note", "240 rows\n\nin two lines"),
        event(9, "warning", "slow disk"),
        event(20, "ended", "finished"),
    ]
    output = [
        "loading",
        "00:00:07 note: 240 rows",
        "in two lines",
        "reading",
        "00:00:09 warning: slow disk",
    ]
    lines = timeline(events, [*output, "saving"])
    assert texts(lines)[:2] == ["started: ", "loading"]
    assert texts(lines)[2] == "note: 240 rows" and texts(lines)[4].strip() == "in two lines"
    assert texts(lines)[5:] == ["reading", "warning: slow disk", "saving", "ended: finished"]
    assert [line.kind for line in lines[5:]] == ["output", "warning", "output", "event"]


def test_a_redacted_message_is_known_by_its_time_and_one_without_an_event_is_shown() -> None:
    events = [event(7, "note", "key sk-1"), event(9, "note", "done")]
    output = ["00:00:08 note: key [redacted]", "a", "00:00:30 other: lost", "00:00:09 note: done"]
    assert texts(timeline(events, output)) == ["note: key sk-1", "a", "other: lost", "note: done"]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("event"), st.integers(0, 3)),
            st.tuples(st.just("output"), st.integers(0, 3)),
            st.tuples(st.just("silent"), st.integers(0, 3)),
        ),
        max_size=30,
    )
)
def test_no_line_is_lost_or_doubled_and_each_keeps_its_order(made: list[tuple[str, int]]) -> None:
    """Silent events are stored but not printed."""
    events, output, printed, silent = [], [], [], []
    for second, (kind, number) in enumerate(made):
        text = f"{kind} {number}"
        if kind != "output":
            events.append(event(second, "note" if kind == "event" else "quiet", text))
        if kind == "event":
            output.append(f"{time.strftime('%H:%M:%S', time.gmtime(second))} note: {text}")
        if kind == "output":
            output.append(text)
        (silent if kind == "silent" else printed).append(text)
    shown = [line.split(": ")[-1] for line in texts(timeline(events, output))]
    assert [line for line in shown if not line.startswith("silent")] == printed
    assert [line for line in shown if line.startswith("silent")] == silent


@given(
    st.lists(st.sampled_from(["event", "silent", "a", "Traceback (most recent call last):", " b"])),
    st.data(),
)
def test_a_timeline_does_not_depend_on_how_it_has_grown(
    made: list[str], data: st.DataObject
) -> None:
    """An event is printed before it is stored: either may be read first."""
    events, output = [], []
    for second, kind in enumerate(made):
        if kind in ("event", "silent"):
            events.append(event(second, "note", f"{kind} {second}\nits second line"))
        if kind == "event":
            printed = f"{time.strftime('%H:%M:%S', time.gmtime(second))} note: event {second}"
            output += [printed, "its second line"]
        elif kind != "silent":
            output.append(kind)
    growing, stored, written = Timeline(), 0, 0
    for _ in range(4):
        stored = data.draw(st.integers(stored, len(events)))
        written = data.draw(st.integers(written, len(output)))
        settled = data.draw(st.integers(0, written))
        growing.grown(events[:stored], output[:written], settled)
    assert growing.grown(events, output, len(output)) == timeline(events, output)


def test_an_event_that_was_read_before_it_was_stored_takes_its_place() -> None:
    events = [event(5, "quiet", "silent"), event(6, "note", "printed")]
    output = ["a", "00:00:06 note: printed", "b"]
    growing = Timeline()
    early = growing.grown(events[:1], output[:2], 2)
    assert texts(early) == ["a", "note: printed", "quiet: silent"]
    expected = ["quiet: silent", "a", "note: printed", "b"]
    assert texts(growing.grown(events, output, 3)) == expected
    assert texts(growing.grown([*events, event(9, "ended", "finished")], output, 3))[:4] == expected


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("UserWarning: this is deprecated", "warning"),
        ("[rank0]: WARNING: no GPU", "warning"),
        ("ERROR: no space", "error"),
        ("torch.OutOfMemoryError: CUDA", "error"),
        ("RuntimeError: size mismatch", "error"),
        ("error: the data is broken", "error"),
        ("{'loss': '2.857', 'kl': '2.41', 'epoch': '0.05'}", "metrics"),
        ("{'train_runtime': 12.5}", "metrics"),
        ("{'a': 'text'}", "output"),
        ("warmup of 10 steps", "output"),
        ("Downloading errors.json: 40%|####  | 4/10", "output"),
    ],
)
def test_levels_of_output(line: str, kind: str) -> None:
    assert [entry.kind for entry in timeline([], [line])] == [kind]


def test_a_traceback_is_an_error_to_its_last_line() -> None:
    output = ["ok", "Traceback (most recent call last):", '  File "a.py", line 1', "    1/0"]
    lines = timeline([], [*output, "ZeroDivisionError: division by zero", "after"])
    assert [line.kind for line in lines] == ["output", *["error"] * 4, "output"]


def test_bars_leave_their_last_state_however_they_redraw() -> None:
    data = (
        b"rows:   0%|  | 0/9\rrows:  50%|# | 4/9\rrows: 100%|##| 9/9\r\nloaded\n"
        b"12it [00:01, 8.1it/s]\r24it [00:02, 8.2it/s]\n"
        b"\x1b[32mgreen\x1b[0m\n\n"
        b"a:  1%|#| 1/9\n\x1b[Ab: 1%|#| 1/9\n\x1b[Aa:  2%|#| 2/9\n"
    )
    assert output_lines(data) == [
        "rows: 100%|##| 9/9",
        "loaded",
        "24it [00:02, 8.2it/s]",
        "green",
        "a:  2%|#| 2/9",
        "b: 1%|#| 1/9",
    ]
    # Of a bar that was cut, its next state is whole.
    assert output_lines(data, cut=True)[0] == "rows: 100%|##| 9/9"
    assert output_lines(b"is cut\n" + data, cut=True) == output_lines(data)


def read(log: GrowingLog, path: Path) -> list[str]:
    log.read(path)
    return log.lines


def test_a_log_is_read_again_only_when_it_has_grown(tmp_path: Path) -> None:
    path, log = tmp_path / "worker.log", GrowingLog()
    assert read(log, path) == []
    path.write_text("one\n")
    first = read(log, path)
    assert first == ["one"] and read(log, path) is first
    with path.open("a") as stream:
        stream.write("x" * TAIL_BYTES + "\nlast\n")
    assert read(log, path) == ["last"]


def test_a_log_that_is_gone_short_or_another_begins_anew(tmp_path: Path) -> None:
    path, log = tmp_path / "worker.log", GrowingLog()
    path.write_text("one\ntwo\n")
    assert log.read(path) and not log.read(path)
    with path.open("a") as stream:
        stream.write("thr")
    assert not log.read(path) and log.lines == ["one", "two", "thr"]
    path.write_text("other\n")
    assert log.read(path) and log.lines == ["other"]
    path.unlink()
    assert log.read(path) and log.lines == [] and not log.read(path)


def test_no_more_than_twice_the_tail_of_a_log_is_kept(tmp_path: Path) -> None:
    path, log = tmp_path / "worker.log", GrowingLog()
    line = "x" * 1023
    for _ in range(20):
        with path.open("a") as stream:
            stream.write(f"{line}\n" * (TAIL_BYTES // 8192))
        log.read(path)
        assert 0 < len(log.lines) <= 2 * TAIL_BYTES // 1024 and {*log.lines} == {line}


PIECES = (b"a:  5%|", b"#| 1/9\r", b"b: 12it [00:01]\n", b"\xc3", b"\xa4\n", b"\r", b"\n", b"text")


@given(st.lists(st.sampled_from(PIECES), max_size=20), st.booleans())
def test_lines_do_not_depend_on_how_a_log_has_grown(pieces: list[bytes], cut: bool) -> None:
    output, before, settled = OutputLines(cut=cut), list[str](), 0
    for piece in pieces:
        output.feed(piece)
        assert output.lines()[:settled] == before[:settled]
        before, settled = output.lines(), output.settled
    assert output.lines() == output_lines(b"".join(pieces), cut=cut)


def test_matches_keep_the_other_parts_and_their_roles() -> None:
    line: Line = [("12:00 ", "dim"), ("note", "accent"), (" Loss of notes", "")]
    parts = found_parts(line, "note", "found")
    assert parts == [
        ("12:00 ", "dim"),
        ("note", "found"),
        (" Loss of ", ""),
        ("note", "found"),
        ("s", ""),
    ]
    lines = [LogLine("event", line), LogLine("event", [("loss", "")])]
    assert matches(lines, "loss") == [0, 1] and matches(lines, "Loss") == [0]
    assert matches(lines, "") == [] and matches(lines, "e n") == []


@given(
    st.lists(st.tuples(st.text("ab ", max_size=4), st.just("dim")), max_size=5),
    st.text("ab", min_size=1, max_size=2),
)
def test_marking_never_changes_the_text(line: Line, words: str) -> None:
    def plain(parts: Line) -> str:
        return "".join(text for text, _ in parts)

    parts = found_parts(line, words, "found")
    assert plain(parts) == plain(line)
    marked = sum(len(text) for text, role in parts if role == "found")
    assert marked == len(words) * plain(line).count(words)
