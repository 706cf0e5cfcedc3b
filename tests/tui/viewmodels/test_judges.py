"""Which judges are known, and which of them a model stands behind."""

from __future__ import annotations

from kdharness.tui.viewmodels.judges import can_be_called, judge_names


def test_judges_of_cards_settings_and_verdicts_are_counted_once() -> None:
    groups = [
        {"judge": "openai:a", "changes": 3},
        {"judge": "exact", "changes": 5},
        {"judge": "imported:gpt-4", "changes": 2},
        {"judge": "openai:a", "changes": 4},
    ]
    names = judge_names(["openai:b"], ["openai:a", "openai:b"], groups)
    assert names == {"openai:b": 0, "openai:a": 7, "imported:gpt-4": 2}


def test_verdicts_made_elsewhere_have_no_model_to_call() -> None:
    assert can_be_called("openai:a") and can_be_called("local:smollm2")
    for name in ("imported:gpt-4", "panel:openai:a+openai:b", "published:paper"):
        assert not can_be_called(name)
