"""Forms under test: a stub for the planning process, and moving to a field."""

from __future__ import annotations

from typing import Any

from kdharness.tui.app import HarnessApp
from kdharness.tui.widgets.form_sheet import FormSheet


def canned_plan(command: list[str], text: str = "") -> Any:
    """Return canned output of the planning process."""
    if command[0] == "-c":
        row = {
            "checkpoint": "kd",
            "bench": "mt-bench",
            "judge": "openai:judge-x",
            "answers": 3,
            "calls": 160,
            "tokens": 9000,
            "usd": 0.123,
        }
        return {"rows": [row], "unused": ["baseline has no effect: mt-bench compares no pairs"]}
    if "check" in command:
        return [
            {"check": "labelled", "of": "rows", "status": "ok", "detail": "62 %", "advice": ""},
            {
                "check": "end of answers",
                "of": "teacher",
                "status": "note",
                "detail": "it stops elsewhere",
                "advice": "use its template",
            },
        ]
    return [
        {"figure": "parameters student", "value": 42_000_000},
        {"figure": "parameters trained", "value": 42_000_000},
        {"figure": "steps", "value": 60},
        {"figure": "tokens", "value": 30_876},
        {"figure": "tokens labelled", "value": 19_000},
        {"figure": "memory peak", "value": 1.041},
        {"figure": "disk", "value": 0.63},
    ]


def move_to(app: HarnessApp, name: str) -> None:
    """Move the cursor to a field."""
    sheet = app.screen.query_one(FormSheet)
    sheet.move_to([row["id"] for row in sheet.rows].index(name))
