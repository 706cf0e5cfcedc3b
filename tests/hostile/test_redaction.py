"""Redaction: keys in any encoding are hidden, and the text around them is kept."""

from __future__ import annotations

import base64
import io
import json
import os
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Checkpoint, Finish, Run, RunStatus
from kdharness.harness.util.redact import RedactedStream, redact, redact_data
from support.planted_keys import leaking_files, leaks, masked
from support.timing import assert_not_quadratic


def test_every_encoding_of_a_key_is_redacted(planted_keys: dict[str, str]) -> None:
    for key in planted_keys.values():
        for text in (
            key,
            f"Bearer {key}",
            f"?api_key={quote(key, safe='')}&x=1",
            json.dumps({"key": key}),
            json.dumps(json.dumps({"key": key})),
            repr({"k": key}),
            quote_plus(key),
            "".join(f"\\u{ord(c):04x}" for c in key),
            f"a{key}b{key}c",
            base64.b64encode(key.encode()).decode(),
            base64.b64encode(f":{key}".encode()).decode(),
        ):
            clean = redact(text, shapes=True)
            assert not leaks(clean.encode()) and "***" in clean, text
    for key in planted_keys.values():
        clean = redact(f"Incorrect API key provided: {masked(key)}. See https://x.")
        assert key[:8] not in clean and key[-4:] not in clean and "See https://x" in clean
        clean = redact(f"key {key[:6]}...{key[-4:]} is revoked")
        assert key[:6] not in clean and "is revoked" in clean


def test_key_like_text_is_redacted_only_with_shapes() -> None:
    for text in (
        "Authorization: Bearer abcdefghijklmnop",
        "http://me:word@host/v1",
        "?api_key=abcdefgh123",
        "x-api-key: abcdefghij",
        '"api_key": "abcdefghij"',
        "key sk-abcdefghijklmnop is wrong",
        "hf_abcdefghijklmnopqrstuv",
        "Basic dXNlcjpwYXNz",
        "&access_token=abc123456",
    ):
        assert redact(text) == text
        clean = redact(text, shapes=True)
        assert "***" in clean and "abcdefgh" not in clean and "me:word" not in clean
    for text in (
        "the task-force met",
        "see https://example.org/v1?page=2",
        "tokens: 12",
        "HTTP 404: no such model",
        "/home/me/runs/kd-7f3a/final",
    ):
        assert redact(text, shapes=True) == text


@settings(settings.get_profile("hostile"), max_examples=100)
@given(before=st.text(max_size=30), after=st.text(max_size=30))
def test_text_around_a_key_is_kept(before: str, after: str) -> None:
    key = "sk-planted-JUDGE-0815abcXYZ"
    os.environ["KDHARNESS_JUDGE_API_KEY"] = key
    try:
        clean = redact(before + key + after)
    finally:
        del os.environ["KDHARNESS_JUDGE_API_KEY"]
    assert key not in clean
    assert clean.startswith(before[:-1] if before else "") and clean.endswith(after[1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "repeated"),
    [
        ("", "sk-"),
        ("", "://"),
        ("", "Bearer "),
        ("", "a@"),
        ("", "api_key="),
        ("sk-p", "*"),
        ("", "sk-p..."),
        ("://", "a"),
        ("", "?key="),
    ],
)
def test_redaction_time_is_not_quadratic(
    start: str, repeated: str, planted_keys: dict[str, str]
) -> None:
    assert_not_quadratic(lambda times: redact(start + repeated * times, shapes=True), 16_000)


def test_short_values_and_paths_are_not_treated_as_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    monkeypatch.setenv("SSH_KEY", "/home/somebody/.ssh/id_rsa")
    monkeypatch.setenv("OTHER_TOKEN", "checkpoint")
    text = "EMPTY checkpoint in /home/somebody/.ssh/id_rsa"
    assert redact(text) == text


def test_keys_that_come_and_go_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is searched only when it has changed."""
    text = "first-secret-value-1 and second-secret-value-2"
    assert redact(text) == text
    monkeypatch.setenv("ANOTHER_API_KEY", "first-secret-value-1")
    assert redact(text) == "*** and second-secret-value-2"
    monkeypatch.setenv("ANOTHER_API_KEY", "second-secret-value-2")
    assert redact(text) == "first-secret-value-1 and ***"
    monkeypatch.delenv("ANOTHER_API_KEY")
    assert redact(text) == text


def test_store_rows_are_redacted(planted_keys: dict[str, str], paths: Paths) -> None:
    key = planted_keys["OPENAI_API_KEY"]
    with Store(paths.store) as store:
        store.add_run(
            Run(
                id="r",
                method="sft",
                status=RunStatus.FAILED,
                config={"a": [key]},
                config_hash="h",
                folder="f",
                created=1.0,
                error=f"said {key}",
            )
        )
        store.update_run("r", error=f"again {key}", info={"note": key})
        store.add_event("r", "note", f"an event with {key}", detail=key)
        store.add_progress("r", error=key)
        store.add_checkpoint(
            Checkpoint(id="c", name="c", method="sft", path="", created=1.0, info={"x": key})
        )
        store.add_answers(
            [
                Answer(
                    id="a",
                    checkpoint="c",
                    bench="b",
                    revision="r",
                    item="1",
                    turn=1,
                    text=f"my key is {key}!",
                    finish=Finish.STOP,
                    prompt_hash="",
                    settings="",
                    created=1.0,
                    info={"e": {"deep": [key]}},
                )
            ]
        )
        store.set_bench_note("b", "r", {"note": key})
        store.add_card("judge", {"labels": [key]})
        assert store.answers("c")[0].text == "my key is ***!"
        assert store.run("r") is not None
    assert leaking_files(paths.home) == {}
    assert redact_data({"a": (key, 1)}) == {"a": ("***", 1)}


def test_redacted_stream_hides_keys(planted_keys: dict[str, str]) -> None:
    sink = io.StringIO()
    stream = RedactedStream(sink)
    print("key:", planted_keys["HF_TOKEN"], file=stream)  # type: ignore[call-overload]
    stream.writelines([f"{planted_keys['OPENAI_API_KEY']}\n"])
    stream.flush()
    assert not leaks(sink.getvalue().encode()) and sink.getvalue().count("***") == 2
