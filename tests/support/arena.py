"""Arena-Hard's asset in small: prompts, baselines and judge prompts of ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.assets import AssetFile, file_sha256, find_asset, manifest

O3, GEMINI = "o3-mini-2025-01-31", "gemini-2.0-flash-001"
QUESTIONS = [
    {"uid": "h1", "category": "hard_prompt", "subcategory": "coding", "prompt": "Reverse a list."},
    {"uid": "h2", "category": "hard_prompt", "subcategory": "math", "prompt": "What is {6} x 7?"},
    {
        "uid": "c1",
        "category": "creative_writing",
        "subcategory": "creative_writing",
        "prompt": "Write a line about rain.",
    },
]
TASK = f'''"""Not to be run."""
raise SystemExit("run")
DEFAULT_PROMPT_TEMPLATE = (
    "<Q>{{QUESTION}}</Q>"
    "<A>{{ANSWER_A}}</A>"
    "<B>{{ANSWER_B}}</B>"
)
COMMON = "Compare the two. Labels: [[A>>B]] [[A>B]] [[A=B]] [[B>A]] [[B>>A]]"
JUDGE_SETTINGS = {{
    "hard_prompt": {{"baseline": "{O3}", "system_prompt": COMMON}},
    "creative_writing": {{"baseline": "{GEMINI}", "system_prompt": "Compare the writing."}},
}}
'''


def answers_of(model: str) -> list[dict[str, Any]]:
    return [
        {
            "uid": row["uid"],
            "model": model,
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": {"answer": f"{model} on {row['uid']}"}},
            ],
        }
        for row in QUESTIONS
    ]


def write_arena(assets: Path, monkeypatch: pytest.MonkeyPatch, task: str = TASK) -> None:
    """Write the asset, and let the manifest know these files."""
    texts = {
        "question.jsonl": QUESTIONS,
        f"model_answer/{O3}.jsonl": answers_of(O3),
        f"model_answer/{GEMINI}.jsonl": answers_of(GEMINI),
    }
    folder = assets / "arena-hard-v2"
    (folder / "model_answer").mkdir(parents=True)
    for name, rows in texts.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "arena_hard_task.py").write_text(task, "utf-8")
    files = {
        name: AssetFile(file_sha256(folder / name), (folder / name).stat().st_size)
        for name in (*texts, "arena_hard_task.py")
    }
    changed = replace(find_asset("arena-hard-v2"), files=files)
    monkeypatch.setitem(manifest(), "arena-hard-v2", changed)
