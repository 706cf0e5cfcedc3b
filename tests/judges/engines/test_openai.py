"""The OpenAI-compatible client against a server that misbehaves."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.config.evaluation import EvalConfig, parse_spec
from kdharness.harness.config.settings import UserSettings, load_settings
from kdharness.harness.errors import ConfigError, JudgeError
from kdharness.harness.paths import Paths
from kdharness.harness.types import Finish
from kdharness.judges.engines import rate_limits
from kdharness.judges.engines.openai import OpenAIEngine
from kdharness.judges.engines.rate_limits import Price, backoff, find_price
from kdharness.judges.engines.waits import retry_after
from support.loopback import FAULTS, Loopback, Raw, completion
from support.openai_calls import engine, refusal, requests
from support.timing import without_hanging


def busy_engine(server: Loopback, **options: Any) -> OpenAIEngine:
    """Return an engine with high concurrency and a short timeout."""
    return engine(server, **{"concurrency": 16, "timeout": 1.0, **options})


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("KDHARNESS_JUDGE_API_KEY", raising=False)


def test_every_request_is_answered_once() -> None:
    with Loopback() as server:
        replies = dict(busy_engine(server).stream(requests(50)))
    assert sorted(replies) == list(range(50))
    assert server.calls == 50
    assert all(reply.text.startswith("It is fine") for reply in replies.values())
    assert replies[0].prompt_tokens == 10 and replies[0].tokens == 5


def test_concurrency_limit_is_reached_and_respected() -> None:
    with Loopback(delay=0.05) as server:
        dict(busy_engine(server, concurrency=8).stream(requests(40)))
    assert server.most_at_once == 8


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_retried(fault: str) -> None:
    clean = Loopback()
    with clean:
        expected = dict(busy_engine(clean).stream(requests(20, top=5)))
    # Each empty reply is billed: the third one of a call is final.
    rate = 0.2 if fault == "empty" else 0.4
    with Loopback(fault_rate=rate, faults=(fault,), seed=1) as server:
        replies = dict(busy_engine(server, timeout=0.5).stream(requests(20, top=5)))
    assert server.injected[fault] > 0
    assert server.calls == 20 + sum(server.injected.values())
    assert {k: r.top_logprobs for k, r in replies.items()} == {
        k: r.top_logprobs for k, r in expected.items()
    }
    assert not any(reply.error for reply in replies.values())


@pytest.mark.slow
def test_no_reply_is_lost_under_mixed_faults() -> None:
    with Loopback(fault_rate=0.3, seed=3) as server:
        # A reply that a busy machine sends later than this is asked for once more.
        replies = dict(busy_engine(server, timeout=2.0, concurrency=32).stream(requests(300)))
    assert len(replies) == 300 and not any(reply.error for reply in replies.values())
    assert server.calls == 300 + sum(server.injected.values())


def test_calls_that_exhaust_retries_are_errors() -> None:
    with Loopback(fault_rate=1.0, faults=("500",)) as server:
        replies = dict(busy_engine(server, retries=2).stream(requests(3)))
    assert all(
        r.error.startswith("HTTP 500") and r.finish is Finish.ERROR for r in replies.values()
    )
    assert server.calls == 9


@pytest.mark.slow
def test_retry_after_delays_all_calls() -> None:
    with Loopback(fault_rate=0.0, retry_after="1") as server:
        first: list[float] = []

        def limited(body: dict) -> dict:  # type: ignore[type-arg]
            return completion("ok [[5]]")

        server.answer = limited
        server.fault_rate, server.faults = 1.0, ("429",)
        judge = busy_engine(server, concurrency=4)
        stream = judge.stream(requests(4))

        import threading

        def stop_faults() -> None:
            while server.calls < 4:
                time.sleep(0.01)
            server.fault_rate = 0.0

        threading.Thread(target=stop_faults).start()
        started = time.monotonic()
        dict(stream)
        first.append(time.monotonic() - started)
    assert server.calls == 8
    assert first[0] >= 1.0


def test_retry_after_parses_numbers_dates_and_milliseconds() -> None:
    import email.utils

    assert retry_after({"retry-after": "3"}) == 3
    assert retry_after({"retry-after-ms": "250"}) == 0.25
    when = email.utils.formatdate(time.time() + 3600, usegmt=True)
    assert 3500 < (retry_after({"retry-after": when}) or 0) <= 3600
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_backoff_grows_and_jitters() -> None:
    assert all(0.1 <= backoff(0) <= 0.5 for _ in range(100))
    assert all(backoff(20) <= 60 for _ in range(100))
    assert len({backoff(3) for _ in range(10)}) == 10


def test_requests_per_minute_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a fake clock: on a busy machine delayed calls would arrive in bursts."""
    now, starts = 100.0, list[float]()

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(rate_limits.time, "monotonic", lambda: now)
    monkeypatch.setattr(rate_limits.asyncio, "sleep", sleep)
    bucket = rate_limits.Bucket(600)

    async def calls() -> None:
        for _ in range(40):
            await bucket.take()
            starts.append(now)

    asyncio.run(calls())
    # Ten per second, with a burst of ten at the start.
    assert starts == pytest.approx([max(100.0, 99.0 + number / 10) for number in range(40)])


@pytest.mark.slow
def test_requests_per_minute_throttles_the_engine() -> None:
    with Loopback() as server:
        started = time.monotonic()
        dict(busy_engine(server, requests_per_minute=600).stream(requests(20)))
        assert time.monotonic() - started >= 0.8


@pytest.mark.slow
def test_tokens_per_minute_throttles_the_engine() -> None:
    with Loopback() as server:
        started = time.monotonic()
        # About 74 tokens are estimated and 15 are used: 15 x 40 tokens at 300 per second.
        dict(busy_engine(server, tokens_per_minute=18_000, concurrency=1).stream(requests(40)))
        assert time.monotonic() - started >= 0.8


def test_budget_is_never_exceeded() -> None:
    price = Price(input=1_000.0, output=10_000.0)  # 0.06 dollars a call of 10 + 5 tokens
    with Loopback() as server:
        judge = busy_engine(server, budget=2.0, price=price, concurrency=8)
        replies = dict(judge.stream(requests(100)))
    spent = sum(reply.usd for reply in replies.values())
    assert 0 < len(replies) < 100
    assert spent == pytest.approx(0.06 * len(replies))
    assert spent <= 2.0


def test_budget_requires_a_price(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with pytest.raises(JudgeError, match="price"):
        OpenAIEngine.open(parse_spec("openai:gpt-x"), EvalConfig(budget=1.0), Paths(tmp_path))
    (tmp_path / "settings.yaml").write_text("prices: {gpt-x: {input: 1, output: 2}}")
    opened = OpenAIEngine.open(parse_spec("openai:gpt-x"), EvalConfig(budget=1.0), Paths(tmp_path))
    assert opened.price == Price(1, 2)


def test_invalid_prices_are_rejected(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    for price in (
        "{input: cheap, output: 1}",
        "{input: 1}",
        "[1, 2, 3]",
        "-1",
        "{input: .nan, output: 1}",
    ):
        paths.settings.write_text(f"prices: {{a: {price}}}")
        with pytest.raises(ConfigError, match=r"prices\.a"):
            load_settings(paths)
    paths.settings.write_text("prices: {a: [1, 2]}")
    assert find_price(load_settings(paths), "a") == Price(1, 2)
    assert find_price(UserSettings(), "a") is None


def test_unknown_setting_is_rejected(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.settings.write_text("judges: openai:x\n")
    with pytest.raises(ConfigError, match="did you mean judge"):
        load_settings(paths)


@pytest.mark.slow
def test_total_timeout_keeps_finished_replies() -> None:
    with Loopback(delay=0.2) as server:
        judge = busy_engine(server, total_timeout=0.5, concurrency=2)
        replies = dict(judge.stream(requests(50)))
    assert 0 < len(replies) < 10


def test_stop_soon_yields_calls_in_flight() -> None:
    with Loopback(delay=0.1) as server:
        judge = busy_engine(server, concurrency=5)
        pairs = []
        for pair in judge.stream(requests(100)):
            pairs.append(pair)
            judge.stop_soon()
        assert 5 <= len(pairs) <= 10
        assert server.calls == len(pairs)


@pytest.mark.parametrize(("status", "word"), [(401, "key"), (404, "model"), (403, "key")])
def test_fatal_statuses_end_the_run_at_once(status: int, word: str) -> None:
    with Loopback(status=status, refusal="no") as server, pytest.raises(JudgeError) as caught:
        dict(busy_engine(server, concurrency=4).stream(requests(100)))
    assert word in caught.value.hint
    assert server.calls <= 4


def test_unreachable_endpoint_ends_the_run() -> None:
    with Loopback() as server:
        url = server.url
    judge = OpenAIEngine("judge-1", url, timeout=0.5, first_wait=0.001, concurrency=16)
    with pytest.raises(JudgeError, match="not reached"):
        dict(judge.stream(requests(200)))


def test_rejected_parameters_are_remembered() -> None:
    def reject_parameters(body: dict[str, Any]) -> Any:
        for name, message in (
            ("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'."),
            ("temperature", "Unsupported value: 'temperature' does not support 0."),
        ):
            if name in body:
                return Raw(400, refusal(message))
        return completion("[[5]]")

    with Loopback(answer=reject_parameters) as server:
        judge = busy_engine(server, concurrency=1)
        replies = dict(judge.stream(requests(10)))
    assert all(reply.text == "[[5]]" for reply in replies.values())
    assert server.calls == 12
    assert "max_completion_tokens" in server.bodies[-1]


def test_key_is_sent_and_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDHARNESS_JUDGE_API_KEY", "sk-very-secret")
    with Loopback(status=400, refusal="bad key sk-very-secret given") as server:
        replies = dict(busy_engine(server).stream(requests(1)))
    assert server.headers[0]["authorization"] == "Bearer sk-very-secret"
    assert "secret" not in replies[0].error and "***" in replies[0].error
    assert "secret" not in busy_engine(server).name


def test_engine_specs_are_parsed_or_rejected() -> None:
    spec = parse_spec("openai:org/model@v2@http://h:1/v1/")
    assert (spec.model, spec.url) == ("org/model@v2", "http://h:1/v1")
    assert parse_spec("local:./a@b").model == "./a@b"
    for invalid in (
        "gpt-4",
        "openai:",
        "what:x",
        "openai:@http://h/v1",
        "openai:m@http://user:key@h/v1",
    ):
        with pytest.raises(Exception, match=r"judge|model|key"):
            parse_spec(invalid)


def test_probe_reports_endpoint_capabilities() -> None:
    with Loopback() as server:
        probe = busy_engine(server).probe(logprobs=True)
        assert probe.logprobs and probe.model_known and probe.context == 8192
        assert busy_engine(server).probe().reachable
    with Loopback(answer=lambda body: completion("m")) as server:
        probe = busy_engine(server).probe(logprobs=True)
        assert not probe.logprobs and "log-probabilities" in probe.note
    with Loopback(models=None) as server:
        assert busy_engine(server).probe().reachable


def test_probe_lists_available_models() -> None:
    with (
        Loopback(models=("other",), status=404, refusal="no such model") as server,
        pytest.raises(JudgeError) as caught,
    ):
        busy_engine(server).probe()
    assert "other" in caught.value.hint


def test_probe_of_an_unreachable_endpoint_fails_quickly() -> None:
    with Loopback() as server:
        url = server.url
    with without_hanging(), pytest.raises(JudgeError, match="cannot be reached"):
        OpenAIEngine("m", url, first_wait=0.01).probe()
