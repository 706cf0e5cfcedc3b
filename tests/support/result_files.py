"""Rows in the formats of FastChat and AlpacaEval."""

from __future__ import annotations

from typing import Any


def single_judgment(
    question: int, turn: int, score: float, model: str = "m", **rest: Any
) -> dict[str, Any]:
    """Make a FastChat single-answer judgment."""
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


def pair_judgment(question: int = 81, **changes: Any) -> dict[str, Any]:
    """Make a FastChat pairwise judgment of `m` and `n`."""
    return {
        "question_id": question,
        "model_1": "m",
        "model_2": "n",
        "g1_winner": "model_1",
        "g2_winner": "tie",
        "judge": ["gpt-4", "pair-v2"],
        "turn": 1,
        "tstamp": 5.0,
        **changes,
    }


def fastchat_answer(question: int, model: str = "m") -> dict[str, Any]:
    """Make a FastChat model answer."""
    return {
        "question_id": question,
        "answer_id": "a",
        "model_id": model,
        "choices": [{"index": 0, "turns": ["one", "two"]}],
        "tstamp": 1.0,
    }


def alpaca_annotation(instruction: str, preference: Any, **rest: Any) -> dict[str, Any]:
    """Make an AlpacaEval annotation."""
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
