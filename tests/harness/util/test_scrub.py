"""Names for others: no paths of this machine, no addresses."""

from __future__ import annotations

import pytest

from kdharness.harness.analysis.metrics import headlines
from kdharness.harness.types import Score
from kdharness.harness.util.scrub import judge_without_places, without_places


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/me/data/rows.jsonl", "rows.jsonl"),
        ("~/rows.jsonl", "rows.jsonl"),
        (r"C:\Users\me\rows.jsonl", "rows.jsonl"),
        ("local:/home/me/judge", "judge"),
        ("a/b/rows.jsonl", "rows.jsonl"),
        ("org/model", "org/model"),
        ("hub:org/data", "hub:org/data"),
        ("openai:gpt@http://10.0.0.5:8000/v1", "openai:gpt"),
        ("http://10.0.0.5:8000/v1", "(an endpoint)"),
        ("shop:train", "shop:train"),
        ("domain subject to general >= 0.98 * reference", None),
        ("{{ a }}/\n{{ b }}/{{ c }}", None),
        ("{% if a // b %}\n{{ '\\n' + c + '\\n' }}", None),
        ("read\n/home/me/data/rows.jsonl", "read\nrows.jsonl"),
    ],
)
def test_places_of_this_machine_are_left_out(value: str, shown: str | None) -> None:
    assert without_places({"x": [value]}) == {"x": [shown if shown is not None else value]}


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("Answer in English/German/French, briefly.", None),
        ("1/2/3", None),
        ("<b>x</b> and/or y", None),
        ("Read /home/me/notes.txt and (~/a/b.txt).", "Read notes.txt and (b.txt)."),
        (r"Read C:\Users\me\notes.txt", "Read notes.txt"),
        ("Ask http://10.0.0.5:8000/v1 first", "Ask (an endpoint) first"),
    ],
)
def test_a_prompt_is_shown_as_it_is_but_for_places(prompt: str, shown: str | None) -> None:
    """Slashes between its words are no path."""
    found = without_places({"data": {"self_written": {"prompt": prompt}}})
    assert found == {"data": {"self_written": {"prompt": shown if shown is not None else prompt}}}


@pytest.mark.parametrize(
    ("judge", "shown"),
    [
        ("openai:gpt-5", "openai:gpt-5"),
        ("openai:gpt@http://10.0.0.5:8000/v1", "openai:gpt"),
        ("openai:accounts/lab/models/x", "openai:accounts/lab/models/x"),
        ("openai:/home/me/models/x@http://a/v1", "openai:x"),
        ("local:/home/me/judge", "local:judge"),
        ("local:~/judge", "local:judge"),
        ("llama:../a/b/judge.gguf", "llama:judge.gguf"),
        ("local:smollm2", "local:smollm2"),
        ("panel:openai:a@http://x/v1+local:/home/me/j", "panel:openai:a+local:j"),
        ("exact", "exact"),
        ("imported", "imported"),
    ],
)
def test_judges_are_named_without_places(judge: str, shown: str) -> None:
    assert judge_without_places(judge) == shown


def test_a_judge_at_two_addresses_has_two_names_in_trackers() -> None:
    def score(judge: str, value: float) -> Score:
        rest = {"ci_low": None, "ci_high": None, "n": 9, "n_failed": 0}
        return Score("c", None, "sft", "shop", "score", value, judge=judge, **rest)

    found = headlines([score(f"openai:m@http://{host}/v1", n) for n, host in enumerate("ab")])
    assert found == {"c": {"shop/score (openai:m)": 0, "shop/score (openai:m) 2": 1}}
