"""Held-out loss, KL and agreement against a plain computation, one row at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdharness.harness.chats import encode_chat
from kdharness.harness.config_eval import EvalConfig
from kdharness.harness.errors import DataError
from kdharness.harness.models import load_model, load_tokenizer
from kdharness.harness.paths import Paths
from kdharness.harness.worker import SilentReporter
from kdharness.judges.heldout import Heldout

ROWS = [
    {"id": "a", "messages": [{"role": "user", "content": "Hello"},
                             {"role": "assistant", "content": "A whisk, new."}]},
    {"id": "b", "messages": [{"role": "user", "content": "One? " * 20},
                             {"role": "assistant", "content": "Two."},
                             {"role": "user", "content": "Three?"},
                             {"role": "assistant", "content": "Four, and five more of them."}]},
    {"id": "c", "truncated": True,
     "messages": [{"role": "user", "content": "Cut"}, {"role": "assistant", "content": "It was"}]},
]  # fmt: skip


@pytest.fixture
def files(write_jsonl: Callable[[str, list[Any]], Path]) -> dict[str, str]:
    return {"general": str(write_jsonl("general.jsonl", ROWS)),
            "domain": str(write_jsonl("domain.jsonl", ROWS[:1]))}  # fmt: skip




def plain(model: Any, teacher: Any, tokenizer: Any, row: dict[str, Any]) -> dict[str, float]:
    """Sums over one row's labelled tokens, without batches or padding."""
    chat = encode_chat(tokenizer, row["messages"], truncated=row.get("truncated", False))
    ids = torch.tensor([chat.input_ids])
    with torch.inference_mode():
        logs = model(ids).logits[0].double().log_softmax(-1)
        theirs = teacher(ids).logits[0].double().log_softmax(-1)
    sums = {"loss": 0.0, "kl": 0.0, "agreement": 0.0, "tokens": 0.0}
    for i in range(1, len(chat.labels)):
        if chat.labels[i] == -100:
            continue
        sums["tokens"] += 1
        sums["loss"] -= float(logs[i - 1, chat.input_ids[i]])
        sums["kl"] += float((theirs[i - 1].exp() * (theirs[i - 1] - logs[i - 1])).sum())
        sums["agreement"] += float(theirs[i - 1].argmax() == logs[i - 1].argmax())
    return sums


def measured(bench: Heldout, source: Path, paths: Paths, config: EvalConfig) -> dict[str, Any]:
    found = {}
    for batch in bench.weigh("c", str(source), paths, config, SilentReporter(), set(), "teacher"):
        for judgment in batch:
            found[judgment.metric, judgment.item] = judgment
    return found


def test_figures_are_the_plain_ones(
    paths: Paths, tiny_teacher: Path, tmp_path: Path, files: dict[str, str]
) -> None:
    from transformers import AutoModelForCausalLM

    # A second model with the same tokenizer: the teacher with other weights.
    student = tmp_path / "student"
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(student)
    load_tokenizer(str(tiny_teacher), paths).save_pretrained(student)

    config = EvalConfig(heldout={**files, "teacher": str(tiny_teacher)})  # type: ignore[arg-type]
    bench = Heldout.load(paths, config)
    found = measured(bench, student, paths, config)
    assert {metric for metric, _ in found} == {
        f"{kind}_{name}" for kind in ("general", "domain") for name in ("loss", "kl", "agreement")
    }
    tokenizer = load_tokenizer(str(student), paths)
    loaded = load_model(str(student), paths), load_model(str(tiny_teacher), paths)
    for row in ROWS:
        wanted = plain(*loaded, tokenizer, row)
        for name in ("loss", "kl", "agreement"):
            judgment = found[f"general_{name}", f"general/{row['id']}"]
            assert judgment.weight == wanted["tokens"]
            assert judgment.value == pytest.approx(wanted[name], rel=2e-4, abs=2e-4)
    assert found["general_kl", "general/b"].value > 0


def test_a_teacher_agrees_with_itself(
    paths: Paths, tiny_teacher: Path, files: dict[str, str]
) -> None:
    config = EvalConfig(heldout={**files, "teacher": str(tiny_teacher)})  # type: ignore[arg-type]
    found = measured(Heldout.load(paths, config), tiny_teacher, paths, config)
    for (metric, _), judgment in found.items():
        if metric.endswith("_agreement"):
            assert judgment.value == judgment.weight
        if metric.endswith("_kl"):
            assert judgment.value == pytest.approx(0, abs=1e-6)


def test_known_rows_are_not_measured_again(
    paths: Paths, tiny_teacher: Path, files: dict[str, str]
) -> None:
    config = EvalConfig(heldout=files)  # type: ignore[arg-type]
    bench = Heldout.load(paths, config)
    first = [j for b in bench.weigh("c", str(tiny_teacher), paths, config, SilentReporter(), set())
             for j in b]  # fmt: skip
    assert len(first) == 4
    known = {j.id for j in first}
    again = bench.weigh("c", "no such model", paths, config, SilentReporter(), known)
    assert list(again) == []


def test_the_shipped_rows_load(paths: Paths) -> None:
    bench = Heldout.load(paths, EvalConfig())
    sets = {row.set for row in bench.rows}
    assert sets == {"general", "domain"} and bench.flags == ()
    part = Heldout.load(paths, EvalConfig(limit=8))
    assert part.flags == ("subset:16",) and part.revision != bench.revision


def test_rows_that_are_no_chats_are_told(
    paths: Paths, write_jsonl: Callable[[str, list[Any]], Path]
) -> None:
    path = write_jsonl("bad.jsonl", [ROWS[0], {"text": "x"}])
    with pytest.raises(DataError, match="line 2"):
        Heldout.load(paths, EvalConfig(heldout={"general": str(path)}))  # type: ignore[arg-type]
