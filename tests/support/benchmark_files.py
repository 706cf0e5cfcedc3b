"""Fake benchmark files in the format of the real ones, so that tests need no assets."""

from __future__ import annotations

import json
from pathlib import Path

CATEGORIES = ("writing", "math", "stem", "coding")
BASE = "This is what the baseline says about it, at some length and in good order."


def write_assets(folder: Path) -> Path:
    """Write `mt-bench`, `alpaca-eval` and `alpaca-eval-judges` below `folder`."""
    write_mt_bench(folder / "mt-bench")
    rows = [
        {
            "dataset": "own",
            "instruction": f"Say something about number {n}.",
            "output": BASE,
            "generator": "gpt4_1106_preview",
        }
        for n in range(12)
    ]
    (folder / "alpaca-eval").mkdir(parents=True)
    (folder / "alpaca-eval/alpaca_eval_gpt4_baseline.json").write_text(json.dumps(rows))
    write_templates(folder / "alpaca-eval-judges/evaluators_configs")
    return folder


def write_mt_bench(folder: Path, per_category: int = 2) -> None:
    """Write questions 81…, references for math and coding, and eight judge prompts."""
    (folder / "reference_answer").mkdir(parents=True)
    questions, references = [], []
    for index, category in enumerate(CATEGORIES):
        for n in range(per_category):
            number = 81 + index * per_category + n
            questions.append(
                {
                    "question_id": number,
                    "category": category,
                    "turns": [f"Question {number} with {{braces}}?", f"And what of {number} more?"],
                }
            )
            if category in ("math", "coding"):
                references.append(
                    {
                        "question_id": number,
                        "choices": [
                            {"index": 0, "turns": [f"ref {number} one", f"ref {number} two"]}
                        ],
                    }
                )
    prompts = []
    for kind, name in (
        ("single", "single-v1"),
        ("single", "single-math-v1"),
        ("pair", "pair-v2"),
        ("pair", "pair-math-v1"),
    ):
        for multi in (False, True):
            prompts.append(_prompt(kind, name, multi))
    _lines(folder / "question.jsonl", questions)
    _lines(folder / "judge_prompts.jsonl", prompts)
    for file in ("gpt-4.jsonl", "gpt-4-0125-preview.jsonl"):
        _lines(folder / "reference_answer" / file, references)


def _prompt(kind: str, name: str, multi: bool) -> dict[str, str]:
    steps = ("1", "2") if multi else ("",)
    parts = []
    for step in steps:
        mark = f"_{step}" if step else ""
        parts.append(f"Q{step}: {{question{mark}}}")
        if "math" in name:
            parts.append(f"R{step}: {{ref_answer_{step or 1}}}")
        for letter in ("a", "b") if kind == "pair" else ("",):
            middle = f"_{letter}" if letter else ""
            parts.append(f"A{letter}{step}: {{answer{middle}{mark}}}")
    parts.append("[[A]] [[B]] [[C]]" if kind == "pair" else "[[rating]]")
    return {
        "name": name + ("-multi-turn" if multi else ""),
        "type": kind,
        "system_prompt": f"system of {name}",
        "prompt_template": "\n".join(parts),
        "output_format": "[[A]]" if kind == "pair" else "[[rating]]",
    }


def write_templates(folder: Path) -> None:
    """Write the two evaluator configs, with our own templates."""
    chat = (
        "<|im_start|>system\nYou compare.\n<|im_end|>\n<|im_start|>user\n  {instruction}\n"
        "one: {output_1}\ntwo: {output_2}\n<|im_end|>"
    )
    weighted = folder / "weighted_alpaca_eval_gpt4_turbo"
    ranking = folder / "alpaca_eval_gpt4"
    for evaluator in (ranking, weighted):
        evaluator.mkdir(parents=True)
    (folder / "shared").mkdir()
    (folder / "shared/clf.txt").write_text(chat)
    (ranking / "rank.txt").write_text(chat)
    (weighted / "configs.yaml").write_text("""
weighted_alpaca_eval_gpt4_turbo:
  prompt_template: "shared/clf.txt"
  fn_completions: "openai_completions"
  completions_kwargs: {model_name: old, max_tokens: 1, temperature: 1, logprobs: true,
                       top_logprobs: 5}
  fn_completion_parser: "logprob_parser"
  completion_parser_kwargs: {numerator_token: "m", denominator_tokens: ["m", "M"],
                             is_binarize: false}
  batch_size: 1
""")
    (ranking / "configs.yaml").write_text("""
alpaca_eval_gpt4:
  prompt_template: "alpaca_eval_gpt4/rank.txt"
  completions_kwargs: {model_name: old, max_tokens: 100, temperature: 0}
  fn_completion_parser: "ranking_parser"
  batch_size: 1
""")


def _lines(path: Path, rows: list[dict]) -> None:  # type: ignore[type-arg]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
