"""`kdharness check`: what it says of pairs that do not fit, and of those that do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.chat_templates import FAMILIES
from support.commands import CommandLine
from support.configs import config_file, kd_config
from support.files import WriteRows
from support.labels import MARKED
from support.model_files import as_base, changed
from support.models import make_llama, make_llama_other

Check = Callable[..., dict[tuple[str, str], dict[str, Any]]]


@pytest.fixture
def check(kd: CommandLine, tiny_teacher: Path, tmp_path: Path) -> Check:
    """Return a function that checks a KD config; the checks by name and by whose they are."""

    def run(*flags: str, code: int = 0, **changes: Any) -> dict[tuple[str, str], dict[str, Any]]:
        data = {"train": {"path": "general:train", "limit": 8}, "max_length": 400}
        changes = {"student": str(tiny_teacher), "data": data, **changes}
        values = kd_config(tiny_teacher, **changes)
        found, out, err = kd("check", config_file(tmp_path, **values), *flags, "--format", "json")
        assert found == code, err
        return {(row["check"], row["of"]): row for row in json.loads(out)}

    return run


def statuses(rows: dict[tuple[str, str], dict[str, Any]], status: str) -> set[tuple[str, str]]:
    return {key for key, row in rows.items() if row["status"] == status}


def test_pair_that_fits_has_nothing_to_note(check: Check) -> None:
    rows = check(student={"from": "teacher", "keep_layers": 2})
    assert statuses(rows, "note") == set() and statuses(rows, "stop") == set()
    assert {check for check, _ in rows} == {
        "labelled",
        "cut rows",
        "repeated rows",
        "end labelled",
        "end token",
        "vocabulary",
        "positions",
        "output head",
        "base or instruct",
        "tokenizer",
        "end of answers",
        "template",
        "KL at step 0",
        "top-k mass",
    }
    distance = rows["KL at step 0", "teacher"]["values"]
    assert distance["kl"] > 0 and distance["rows"] == 4 and distance["positions"] > 10


def test_rows_that_are_there_twice_are_noted(check: Check, write_jsonl: WriteRows) -> None:
    rows = [{"prompt": f"What is {i}?", "completion": f"Number {i}."} for i in range(40)]
    whole = str(write_jsonl("whole.jsonl", rows))
    few = str(write_jsonl("few.jsonl", [*rows[:19], *rows[:1], *rows[20:]]))
    part = str(write_jsonl("part.jsonl", rows[30:]))

    def found(*sources: dict[str, Any]) -> dict[str, dict[str, Any]]:
        made = check("--no-weights", data={"train": list(sources)})
        return {of: row for (name, of), row in made.items() if name == "repeated rows"}

    once = found({"path": few})[few]
    assert once["status"] == "ok" and once["values"]["repeated"] == 1
    assert f"{few}:20, as {few}:1" in once["detail"]
    twice = found({"path": whole}, {"path": part})
    assert twice[whole]["status"] == "ok" and twice[whole]["detail"] == "none"
    assert twice[part]["status"] == "note" and "weight" in twice[part]["advice"]
    assert twice[part]["values"] == {"rows": 10, "repeated": 10, "other_kind": 0}
    # The same tokens with another kind: a reference and an expert would both teach them.
    kinds = found({"path": whole}, {"path": part, "kind": "domain"})[part]
    assert kinds["values"]["other_kind"] == 10 and "two teachers" in kinds["detail"]


def test_kl_and_mass_are_those_of_the_formula(
    check: Check, tiny_teacher: Path, tmp_path: Path, write_jsonl: WriteRows
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kdharness.harness.chat.template import encode_chat

    student = tmp_path / "student"
    make_llama(student, seed=7)
    messages = [
        {"role": "user", "content": "What colour is it?"},
        {"role": "assistant", "content": "It is red, I think."},
    ]
    rows = check(
        student=str(student),
        teacher={"model": str(tiny_teacher), "cache": {"k": 8, "tail": "bucket"}},
        data={"train": str(write_jsonl("one.jsonl", [{"messages": messages}]))},
        trainer={"attention_weight": 0.0, "device": "cpu"},
    )
    row = encode_chat(AutoTokenizer.from_pretrained(tiny_teacher), messages)
    ids = torch.tensor([row.input_ids])
    logs = []
    for folder in (tiny_teacher, student):
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            logs.append(model(ids).logits[0, :-1].double().log_softmax(-1))
    at = torch.tensor(row.labels[1:]) >= 0
    teacher, pupil = (log[at] for log in logs)
    kl = (teacher.exp() * (teacher - pupil)).sum(-1).mean()
    mass = teacher.exp().topk(8).values.sum(-1).mean()
    values = rows["KL at step 0", "teacher"]["values"]
    assert values["kl"] == pytest.approx(float(kl), rel=1e-4)
    assert values["positions"] == int(at.sum())
    low = rows["top-k mass", "teacher"]
    assert low["values"] == {"k": 8, "mass": pytest.approx(float(mass), abs=1e-4)}
    assert low["status"] == "note" and "cache.k" in low["advice"]


def test_rows_with_long_prompts_are_cut_behind_the_beginning_of_their_answer(
    check: Check, write_jsonl: WriteRows
) -> None:
    long = {"prompt": "Say red. " * 40, "completion": "red " * 60}
    path = str(write_jsonl("long.jsonl", [long, {**long, "prompt": "Say red. " * 44}]))
    values = check(data={"train": path})["KL at step 0", "teacher"]["values"]
    assert values["rows"] == 2 and values["positions"] == 64


def test_teacher_that_is_the_student_has_nothing_to_teach(check: Check) -> None:
    row = check()["KL at step 0", "teacher"]
    assert row["status"] == "note" and "nothing is left to distil" in row["advice"]


def test_without_weights_the_first_loss_is_left_out_and_said(
    check: Check, tiny_teacher: Path
) -> None:
    row = check("--no-weights")["KL at step 0", "teacher"]
    assert row["status"] == "ok" and row["detail"] == "not measured: without weights"
    served = {
        "model": str(tiny_teacher),
        "served": "http://127.0.0.1:9/v1",
        "cache": {"k": 20, "tail": "bucket"},
    }
    rows = check(teacher=served, trainer={"attention_weight": 0.0})
    assert rows["KL at step 0", "teacher"]["detail"] == "not measured: a server runs the teacher"


# ---------------------------------------------------------------- end tokens


def test_base_student_of_an_instruct_teacher(
    check: Check, tiny_teacher: Path, tmp_path: Path
) -> None:
    """As in a public report: a base model trained on chats never stopped in another program."""
    rows = check("--no-weights", student=str(as_base(tiny_teacher, tmp_path / "base")))
    assert statuses(rows, "note") == {
        ("end labelled", "general:train"),
        ("base or instruct", "teacher"),
    }
    ending = rows["end labelled", "general:train"]
    assert "'<|im_end|>', which is not an EOS token of the checkpoint" in ending["detail"]
    assert "generation_config.json" in ending["advice"]
    assert rows["base or instruct", "student"]["values"]["tuning"] == "base"
    assert rows["base or instruct", "teacher"]["values"]["tuning"] == "instruct"


def test_base_model_with_a_template_is_known_by_its_end_token(
    check: Check, tiny_teacher: Path, tmp_path: Path
) -> None:
    folder = as_base(tiny_teacher, tmp_path / "Chat-Instruct", template=True)
    row = check("--no-weights", student=str(folder))["base or instruct", "student"]
    assert row["values"]["tuning"] == "base"
    assert "generation stops at '<|pad|>', not at the template's '<|im_end|>'" in row["detail"]


def test_name_alone_makes_no_instruct_model(
    check: Check, tiny_teacher: Path, tmp_path: Path
) -> None:
    folder = as_base(tiny_teacher, tmp_path / "Tiny-Instruct")
    row = check("--no-weights", student=str(folder))["base or instruct", "student"]
    assert row["values"]["tuning"] == "unclear" and "its name" in row["detail"]


def test_base_teacher_teaches_to_go_on(check: Check, tiny_teacher: Path, tmp_path: Path) -> None:
    rows = check("--no-weights", teacher=str(as_base(tiny_teacher, tmp_path / "base")))
    assert {"end of answers", "template", "base or instruct"} == {
        check for check, of in statuses(rows, "note") if of == "teacher"
    }
    row = rows["end of answers", "teacher"]
    assert "end with '<|im_end|>', but the teacher stops at '<|pad|>'" in row["detail"]


def test_tokenizer_and_generation_config_that_disagree(
    check: Check, tiny_teacher: Path, tmp_path: Path
) -> None:
    """As in a public report: two files of one checkpoint declare different end tokens."""
    folder = changed(tiny_teacher, tmp_path / "m", generation_config={"eos_token_id": [0, 2]})
    row = check("--no-weights", student=str(folder))["end token", "student"]
    assert row["status"] == "note" and "disagree" in row["detail"]
    both = changed(tiny_teacher, tmp_path / "n", generation_config={"eos_token_id": [1, 2]})
    assert check("--no-weights", student=str(both))["end token", "student"]["status"] == "ok"


def test_padding_with_the_end_token_masks_no_label(
    check: Check, tiny_teacher: Path, tmp_path: Path
) -> None:
    """As in a public report: where padding is the end token, other trainers mask both."""
    folder = changed(tiny_teacher, tmp_path / "m", tokenizer_config={"pad_token": "<|im_end|>"})
    rows = check("--no-weights", student=str(folder))
    assert rows["end labelled", "general:train"]["status"] == "ok"


@pytest.mark.parametrize(
    "template",
    [
        MARKED.replace(
            "m.content + '<|im_end|>' -}}{%- endgeneration", "m.content -}}{%- endgeneration"
        ).replace("{%- endgeneration -%}", "{%- endgeneration -%}{{- '<|im_end|>' -}}"),
        FAMILIES["chatml"].replace("<|im_end|>", ""),
    ],
    ids=["outside the generation block", "none"],
)
def test_end_token_without_a_label(
    check: Check, tmp_path: Path, write_jsonl: WriteRows, template: str
) -> None:
    path = tmp_path / "t.jinja"
    path.write_text(template, "utf-8")
    rows = str(write_jsonl("rows.jsonl", [{"prompt": "Hi", "completion": "Ho"}] * 3))
    data = {"train": rows, "chat_template": str(path)}
    row = check("--no-weights", data=data)["end labelled", rows]
    assert row["status"] == "note" and "will not learn to stop" in row["detail"]
    assert row["values"] == {"endless": 3, "rows": 3}


# ---------------------------------------------------------------- tokenizers and templates


def test_other_tokenizer_stops_and_says_what_was_not_compared(check: Check, tmp_path: Path) -> None:
    rows = check(code=1, student=str(make_llama_other(tmp_path / "other")))
    assert statuses(rows, "stop") == {("tokenizer", "teacher")}
    assert "differ: id" in rows["tokenizer", "teacher"]["detail"]
    assert "not measured" in rows["KL at step 0", "teacher"]["detail"]
    assert ("template", "teacher") not in rows


def test_same_tokens_with_other_merges_or_normaliser(
    check: Check, tiny_teacher: Path, tmp_path: Path
) -> None:
    inner = json.loads((tiny_teacher / "tokenizer.json").read_text("utf-8"))
    inner["normalizer"] = {"type": "NFC"}
    inner["model"]["merges"] = inner["model"]["merges"][:-1]
    folder = changed(tiny_teacher, tmp_path / "m", tokenizer=json.dumps(inner))
    row = check("--no-weights", student=str(folder))["tokenizer", "teacher"]
    assert row["status"] == "note" and "other merges, normaliser:" in row["detail"]


def test_vocabularies_padded_to_other_sizes_are_no_problem(check: Check, tmp_path: Path) -> None:
    """As in a public report: one family, embeddings of different sizes."""
    make_llama(tmp_path / "wide", seed=3, vocab_size=448)
    rows = check(student=str(tmp_path / "wide"))
    row = rows["tokenizer", "teacher"]
    assert row["status"] == "ok" and "compared on the first 400" in row["detail"]
    assert rows["vocabulary", "student"]["values"] == {"tokens": 400, "embeds": 448}
    assert rows["KL at step 0", "teacher"]["values"]["kl"] > 0


def test_rows_beyond_the_embedding_stop(check: Check, tmp_path: Path) -> None:
    make_llama(tmp_path / "narrow", seed=3, vocab_size=300)
    rows = check("--no-weights", code=1, student=str(tmp_path / "narrow"))
    assert ("vocabulary", "student") in statuses(rows, "stop")
    assert "is out of range" in rows["vocabulary", "student"]["detail"]


def test_templates_are_compared_by_what_they_write(
    check: Check, tiny_teacher: Path, tmp_path: Path
) -> None:
    text = (tiny_teacher / "chat_template.jinja").read_text("utf-8")
    same = changed(tiny_teacher, tmp_path / "same", template="{# mine #}" + text)
    row = check("--no-weights", teacher=str(same))["template", "teacher"]
    assert row["status"] == "ok" and "written differently" in row["detail"]
    other = changed(
        tiny_teacher, tmp_path / "other", template=text.replace("'role'] + '\n'", "'role'] + ' '")
    )
    row = check("--no-weights", teacher=str(other))["template", "teacher"]
    assert row["status"] == "note" and "user\\nWhat" in row["detail"]
    assert "user What" in row["detail"]


# ---------------------------------------------------------------- rows and shapes


def test_rows_whose_answer_was_cut_away(check: Check, write_jsonl: WriteRows) -> None:
    long = "What is the price of this blue jacket in the shop? " * 8

    def row(question: str, answer: str) -> dict[str, Any]:
        turns = [("user", question), ("assistant", answer)]
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    path = str(write_jsonl("r.jsonl", [row("Hi", "Ho"), row("Hi", long), row(long, "Ho")]))
    rows = check("--no-weights", data={"train": path, "max_length": 24})
    cut = rows["cut rows", path]
    assert cut["status"] == "note"
    assert cut["values"] == {"cut": 1, "answer_lost": 1, "longest": 24}
    assert "1 of them before the answer begins" in cut["detail"]
    assert rows["labelled", path]["status"] == "ok"


def test_no_row_left_stops(check: Check, write_jsonl: WriteRows) -> None:
    path = write_jsonl("r.jsonl", [{"messages": [{"role": "user", "content": "hi"}]}])
    rows = check("--no-weights", code=1, data={"train": str(path)})
    assert statuses(rows, "stop") == {("rows", "student")}


def test_adapter_on_the_head_stops_and_on_a_tied_embedding_is_noted(check: Check) -> None:
    def head(*modules: str, **more: Any) -> dict[str, Any]:
        lora = {
            "student": {"from": "teacher", "keep_layers": 2, "lora": {"target_modules": [*modules]}}
        }
        return check("--no-weights", **lora, **more)["output head", "student"]

    assert head("q_proj")["status"] == "ok"
    assert head("q_proj", "lm_head", code=1)["status"] == "stop"
    tied = head("q_proj", "embed_tokens")
    assert tied["status"] == "note" and "a head of its own" in tied["detail"]


def test_rows_longer_than_the_teacher_was_trained_on(
    check: Check, tiny_teacher: Path, tmp_path: Path
) -> None:
    short = changed(tiny_teacher, tmp_path / "short", config={"max_position_embeddings": 32})
    rows = check("--no-weights", teacher=str(short))
    assert statuses(rows, "note") == {("positions", "teacher")}
    scaled = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    long = changed(tiny_teacher, tmp_path / "long", config={"rope_parameters": scaled})
    row = check("--no-weights", teacher=str(long))["positions", "teacher"]
    assert row["status"] == "ok" and "rotary positions: linear ×4" in row["detail"]


# ---------------------------------------------------------------- methods and output


def test_dae_checks_expert_and_reference_each(
    kd: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    expert = tmp_path / "expert"
    make_llama(expert, seed=5)
    values = {
        "method": "dae",
        "student": str(tiny_teacher),
        "reference": str(tiny_teacher),
        "expert": str(expert),
        "data": {
            "train": [
                {"path": "general:train", "limit": 8},
                {"path": "shop:train", "kind": "domain", "limit": 8},
            ],
            "max_length": 64,
        },
    }
    found = kd.json("check", config_file(tmp_path, **values))
    rows = {(row["check"], row["of"]): row for row in found}
    assert rows["KL at step 0", "reference"]["status"] == "ok"
    assert rows["KL at step 0", "reference"]["values"]["kl"] == 0
    assert rows["KL at step 0", "expert"]["values"]["kl"] > 0.1
    assert {of for check, of in rows if check == "tokenizer"} == {"reference", "expert"}
    del values["reference"]
    found = kd.json("check", config_file(tmp_path, **values))
    details = [row["detail"] for row in found if row["of"] == "reference"]
    assert details == ["the student before training, so 0 at step 0"]


def test_sft_has_no_teacher_to_check(kd: CommandLine, tiny_teacher: Path, tmp_path: Path) -> None:
    data = {"train": {"path": "general:train", "limit": 4}, "max_length": 64}
    config = config_file(tmp_path, method="sft", student=str(tiny_teacher), data=data)
    assert {row["of"] for row in kd.json("check", config)} == {"student", "general:train"}


def test_missing_models_are_noted_and_other_configs_refused(
    check: Check, kd: CommandLine, tmp_path: Path
) -> None:
    rows = check(teacher="/nowhere/teacher")
    assert "not checked: " in rows["model", "teacher"]["detail"]
    assert rows["KL at step 0", "teacher"]["detail"] == "not measured: the teacher is not here"
    config = config_file(tmp_path, method="eval", checkpoints=["a"], benches=["mt-bench"])
    code, _, err = kd("check", config)
    assert code == 2 and "no training data" in err


def test_table_fits_eighty_columns(
    kd: CommandLine, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    config = config_file(tmp_path, **kd_config(tiny_teacher, student=str(tiny_teacher)))
    out = kd.ok("check", config, "--set", "data.max_length=64")
    assert max(map(len, out.splitlines())) <= 80
    assert "→ nothing is left to distil" in " ".join(out.split())
    assert "that stop a run" in out.splitlines()[-1]
