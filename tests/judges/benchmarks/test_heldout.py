"""Held-out loss, KL and agreement compared with an unbatched reference computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdharness.harness.chat.template import encode_chat
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import DataError
from kdharness.harness.models.loading import load_model, load_tokenizer
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.types import JudgmentStatus
from kdharness.judges.benchmarks.heldout import Heldout
from support.files import WriteRows
from support.models import make_llama

ROWS = [
    {
        "id": "a",
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "A whisk, new."},
        ],
    },
    {
        "id": "b",
        "messages": [
            {"role": "user", "content": "One? " * 20},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "Three?"},
            {"role": "assistant", "content": "Four, and five more of them."},
        ],
    },
    {
        "id": "c",
        "truncated": True,
        "messages": [
            {"role": "user", "content": "Cut"},
            {"role": "assistant", "content": "It was"},
        ],
    },
]


@pytest.fixture
def files(write_jsonl: WriteRows) -> dict[str, str]:
    return {
        "general": str(write_jsonl("general.jsonl", ROWS)),
        "domain": str(write_jsonl("domain.jsonl", ROWS[:1])),
    }


ROW_KEYS = [
    "cb227c64bc43e9481470",
    "a88ddfa67945a19a7b06",
    "84a20ef79ef161c49fe0",
]
SHIPPED_REVISION = "9ca3637b4e5512e3d72c"


def reference_metrics(
    model: Any, teacher: Any, tokenizer: Any, row: dict[str, Any]
) -> dict[str, float]:
    """Sum the metrics over one row's labelled tokens, without batches or padding."""
    chat = encode_chat(tokenizer, row["messages"], truncated=row.get("truncated", False))
    ids = torch.tensor([chat.input_ids])
    with torch.inference_mode():
        student_logp = model(ids).logits[0].double().log_softmax(-1)
        teacher_logp = teacher(ids).logits[0].double().log_softmax(-1)
    sums = {"loss": 0.0, "kl": 0.0, "agreement": 0.0, "tokens": 0.0}
    for i in range(1, len(chat.labels)):
        if chat.labels[i] == -100:
            continue
        sums["tokens"] += 1
        sums["loss"] -= float(student_logp[i - 1, chat.input_ids[i]])
        sums["kl"] += float(
            (teacher_logp[i - 1].exp() * (teacher_logp[i - 1] - student_logp[i - 1])).sum()
        )
        sums["agreement"] += float(teacher_logp[i - 1].argmax() == student_logp[i - 1].argmax())
    return sums


def measure(bench: Heldout, source: Path, paths: Paths, config: EvalConfig) -> dict[str, Any]:
    judgments = {}
    for batch in bench.measure("c", str(source), paths, config, NullReporter(), set(), "teacher"):
        for judgment in batch:
            judgments[judgment.metric, judgment.item] = judgment
    return judgments


def test_heldout_metrics_match_the_reference(
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
    judgments = measure(bench, student, paths, config)
    assert {metric for metric, _ in judgments} == {
        f"{kind}_{name}" for kind in ("general", "domain") for name in ("loss", "kl", "agreement")
    }
    tokenizer = load_tokenizer(str(student), paths)
    loaded = load_model(str(student), paths), load_model(str(tiny_teacher), paths)
    for row in ROWS:
        expected = reference_metrics(*loaded, tokenizer, row)
        for name in ("loss", "kl", "agreement"):
            judgment = judgments[f"general_{name}", f"general/{row['id']}"]
            assert judgment.weight == expected["tokens"]
            assert judgment.value == pytest.approx(expected[name], rel=2e-4, abs=2e-4)
    assert judgments["general_kl", "general/b"].value > 0


def test_teacher_agrees_with_itself(
    paths: Paths, tiny_teacher: Path, files: dict[str, str]
) -> None:
    config = EvalConfig(heldout={**files, "teacher": str(tiny_teacher)})  # type: ignore[arg-type]
    judgments = measure(Heldout.load(paths, config), tiny_teacher, paths, config)
    for (metric, _), judgment in judgments.items():
        if metric.endswith("_agreement"):
            assert judgment.value == judgment.weight
        if metric.endswith("_kl"):
            assert judgment.value == pytest.approx(0, abs=1e-6)


def test_known_rows_are_not_measured_again(
    paths: Paths, tiny_teacher: Path, files: dict[str, str]
) -> None:
    config = EvalConfig(heldout=files)  # type: ignore[arg-type]
    bench = Heldout.load(paths, config)
    first = [
        j
        for b in bench.measure("c", str(tiny_teacher), paths, config, NullReporter(), set())
        for j in b
    ]
    assert len(first) == 4
    known = {j.id for j in first}
    again = bench.measure("c", "no such model", paths, config, NullReporter(), known)
    assert list(again) == []


def test_a_row_without_room_for_its_answer_does_not_fail_a_second_evaluation(
    paths: Paths, tiny_teacher: Path, files: dict[str, str]
) -> None:
    """Of row b only the prompt fits: it is never scored, and the others are known by then."""
    config = EvalConfig(heldout={**files, "max_length": 24})  # type: ignore[arg-type]
    bench, source = Heldout.load(paths, config), str(tiny_teacher)

    def measured(known: set[str]) -> list[Any]:
        batches = bench.measure("c", source, paths, config, NullReporter(), known)
        return [judgment for batch in batches for judgment in batch]

    first = measured(set())
    assert sorted(j.item for j in first) == ["domain/a", "general/a", "general/c"]
    assert measured({j.id for j in first}) == []
    bench.rows = tuple(row for row in bench.rows if row.id == "b")
    with pytest.raises(DataError, match="no held-out row has an assistant token"):
        measured(set())


def test_shipped_heldout_rows_load(paths: Paths) -> None:
    bench = Heldout.load(paths, EvalConfig())
    sets = {row.set for row in bench.rows}
    assert sets == {"general", "domain"} and bench.flags == ()
    part = Heldout.load(paths, EvalConfig(limit=8))
    assert part.flags == ("subset:16",) and part.revision != bench.revision


def test_rows_that_are_not_chats_are_reported(paths: Paths, write_jsonl: WriteRows) -> None:
    path = write_jsonl("bad.jsonl", [ROWS[0], {"text": "x"}])
    with pytest.raises(DataError, match=r"bad.jsonl:2: unknown row format"):
        Heldout.load(paths, EvalConfig(heldout={"general": str(path)}))  # type: ignore[arg-type]


def load_domain_rows(paths: Paths, path: Path) -> list[Any]:
    config = EvalConfig(heldout={"domain": str(path)})  # type: ignore[arg-type]
    return [row for row in Heldout.load(paths, config).rows if row.set == "domain"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Where?", "completion": "Here."},
        {"prompt": "Where?", "response": "Here."},
        {"instruction": "Where?", "input": "", "output": "Here."},
        {
            "conversations": [
                {"from": "human", "value": "Where?"},
                {"from": "gpt", "value": "Here."},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "Where?"},
                {"role": "assistant", "content": "Here."},
            ]
        },
        {"prompt": "Where?", "response": "Here.", "source": "me", "id": "a", "category": None},
    ],
)
def test_every_training_row_format_is_accepted(
    paths: Paths, write_jsonl: WriteRows, row: dict[str, Any]
) -> None:
    """From a public report: held-out files needed a format different from training data."""
    (heldout,) = load_domain_rows(paths, write_jsonl("rows.jsonl", [row]))
    assert [(m["role"], m["content"]) for m in heldout.messages] == [
        ("user", "Where?"),
        ("assistant", "Here."),
    ]
    assert (heldout.id, heldout.category, heldout.truncated) == (row.get("id", "1"), "", False)


def test_heldout_parquet_is_read(paths: Paths, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    table = pyarrow.table({"prompt": ["A?", "B?"], "completion": ["a", "b"]})
    pyarrow.parquet.write_table(table, path)
    rows = load_domain_rows(paths, path)
    assert [row.id for row in rows] == ["1", "2"]
    assert [row.messages[1]["content"] for row in rows] == ["a", "b"]


def test_row_keys_are_frozen(paths: Paths, write_jsonl: WriteRows) -> None:
    """Stored judgments refer to these keys, which the first release computed."""
    rows = load_domain_rows(
        paths,
        write_jsonl(
            "rows.jsonl",
            [
                {"prompt": "A?", "response": "a"},
                ROWS[0],
                {**ROWS[2], "source": "kept"},
            ],
        ),
    )
    assert [row.key for row in rows] == ROW_KEYS
    shipped = Heldout.load(paths, EvalConfig())
    assert shipped.revision == SHIPPED_REVISION


def test_duplicate_ids_and_missing_files_are_reported(paths: Paths, write_jsonl: WriteRows) -> None:
    path = write_jsonl("rows.jsonl", [ROWS[0], ROWS[1], ROWS[0]])
    with pytest.raises(DataError, match="duplicate id 'a', also on line 1"):
        load_domain_rows(paths, path)
    with pytest.raises(DataError, match="no such held-out file"):
        load_domain_rows(paths, path.with_name("none.jsonl"))


class Warnings(NullReporter):
    """Keeps what is said as a warning."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str, kind: str = "note") -> None:
        if kind == "warning":
            self.said.append(text)


def test_rows_with_a_loss_that_is_not_finite_have_failed(
    paths: Paths, tmp_path: Path, files: dict[str, str]
) -> None:
    folder = tmp_path / "damaged"
    make_llama(folder, tie_word_embeddings=False)
    whole, tokenizer = load_model(str(folder), paths), load_tokenizer(str(folder), paths)
    spoiled = set(encode_chat(tokenizer, ROWS[2]["messages"], truncated=True).input_ids)
    spoiled -= {t for row in ROWS[:2] for t in encode_chat(tokenizer, row["messages"]).input_ids}
    with torch.no_grad():
        whole.get_input_embeddings().weight[sorted(spoiled)] = float("nan")
    whole.save_pretrained(folder)
    reporter = Warnings()
    config = EvalConfig(heldout={**files, "teacher": str(folder)})  # type: ignore[arg-type]
    bench = Heldout.load(paths, config)
    found = [
        judgment
        for batch in bench.measure("c", str(folder), paths, config, reporter, set(), "t")
        for judgment in batch
    ]
    failed = {(j.metric, j.item) for j in found if j.status is JudgmentStatus.FAILED}
    assert failed == {(f"general_{name}", "general/c") for name in ("loss", "kl", "agreement")}
    assert all(j.value is None and "not a finite" in j.error for j in found if j.item[-1] == "c")
    assert all(j.value is not None for j in found if (j.metric, j.item) not in failed)
    assert reporter.said == [
        "1 of 4 held-out rows failed: the model's loss is not a finite number there, so its "
        "weights may be damaged"
    ]
    # What failed is measured again.
    stored = bench.measured("c", found, "t")
    assert not any(j.id in stored for j in found if j.item == "general/c")


def test_rows_whose_answers_are_cut_away_are_named(
    paths: Paths, tiny_teacher: Path, files: dict[str, str]
) -> None:
    reporter = Warnings()
    config = EvalConfig(heldout={**files, "max_length": 24})  # type: ignore[arg-type]
    bench = Heldout.load(paths, config)
    found = [
        judgment
        for batch in bench.measure("c", str(tiny_teacher), paths, config, reporter, set())
        for judgment in batch
    ]
    assert {j.item for j in found} == {"general/a", "general/c", "domain/a"}
    (said,) = reporter.said
    assert said.startswith("1 of 4 held-out rows cannot be scored") and "24 tokens (b)" in said
