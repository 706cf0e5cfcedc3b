"""Rows as FastChat and AlpacaEval write them."""

from __future__ import annotations

from typing import Any


def single(question: int, turn: int, score: float, model: str = "m", **rest: Any) -> dict[str, Any]:
    return {
        "question_id": question,
        "model": model,
        "judge": ["gpt-4", "single-v1"],
        "user_prompt": "…",
        "judgment": f"[[{score}]]",
        "score": score,
        "turn": turn,
        "tstamp": 100.0 + question + turn,
        **rest,
    }


def answer(question: int, model: str = "m") -> dict[str, Any]:
    return {
        "question_id": question,
        "answer_id": "a",
        "model_id": model,
        "choices": [{"index": 0, "turns": ["one", "two"]}],
        "tstamp": 1.0,
    }


def annotation(instruction: str, preference: Any, **rest: Any) -> dict[str, Any]:
    return {
        "instruction": instruction,
        "output_1": "base",
        "output_2": "longer output",
        "generator_1": "gpt4_1106_preview",
        "generator_2": "m",
        "dataset": "d",
        "annotator": "weighted_alpaca_eval_gpt4_turbo",
        "preference": preference,
        **rest,
    }
