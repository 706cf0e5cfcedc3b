"""Which judges are known, and which of them can be called."""

from __future__ import annotations

from kdharness.tui.viewmodels.judges import can_be_called, judge_names


def test_judges_from_cards_settings_and_judgments_are_merged() -> None:
    groups = [
        {"judge": "openai:a", "changes": 3},
        {"judge": "exact", "changes": 5},
        {"judge": "imported:gpt-4", "changes": 2},
        {"judge": "openai:a", "changes": 4},
    ]
    names = judge_names(["openai:b"], ["openai:a", "openai:b"], groups)
    assert names == {"openai:b": 0, "openai:a": 7, "imported:gpt-4": 2}


def test_imported_panel_and_published_judges_cannot_be_called() -> None:
    assert can_be_called("openai:a") and can_be_called("local:smollm2")
    for name in ("imported:gpt-4", "panel:openai:a+openai:b", "published:paper"):
        assert not can_be_called(name)
