"""A served teacher over vLLM's protocol gives the same numbers as an in-process one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdharness.harness import cli
from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.trainers.data.layout import layout_of
from kdharness.trainers.teachers.served import ServedTeacher
from support.models import make_llama

K = 12


class FakeVllm:
    """Fake vLLM: answer `prompt_logprobs` from an in-process model, with faults on demand."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.requests: list[dict[str, Any]] = []
        self.fault = ""

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.requests.append(body)
        k = body["prompt_logprobs"]
        if self.fault == "limit":
            return 400, {"error": {"message": f"Requested {k}, greater than max allowed: 5"}}
        with torch.no_grad():
            logits = self.model(torch.tensor([body["prompt"]])).logits[0].double()
        logprobs: list[Any] = [None]
        for position, token in enumerate(body["prompt"][1:]):
            logp = logits[position].log_softmax(-1)
            chosen = {*logp.topk(3 if self.fault == "few" else k).indices.tolist(), token}
            ranked = sorted(chosen, key=lambda token_id: -logp[token_id])
            logprobs.append(
                {
                    str(token_id): {
                        "logprob": float(logp[token_id]),
                        "rank": rank + 1,
                        "decoded_token": "x",
                    }
                    for rank, token_id in enumerate(ranked)
                }
            )
        choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": "length"}
        if self.fault != "silent":
            choice["prompt_logprobs"] = (
                [{"a": 1}] * len(logprobs) if self.fault == "odd" else logprobs
            )
        return 200, {
            "id": "x",
            "object": "text_completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
        }


@pytest.fixture
def vllm(tiny_teacher: Path) -> Iterator[tuple[FakeVllm, str]]:
    server_model = FakeVllm(tiny_teacher)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/completions"
            status, body = server_model.answer(json.loads(raw))
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server_model, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def make_padded_batch(padded_left: bool) -> tuple[dict[str, Any], torch.Tensor]:
    """Three rows of 20, 14 and 17 tokens; about a third of their positions are labelled."""
    torch.manual_seed(0)
    ids, real = torch.randint(3, 300, (3, 20)), torch.ones(3, 20, dtype=torch.long)
    for row, length in enumerate((20, 14, 17)):
        real[row, : 20 - length] = int(not padded_left)
        real[row, length:] = int(padded_left)
    if padded_left:
        real = real.flip(-1)
    mask = (torch.rand(3, 20) < 0.35) & real.bool()
    last = real.cumsum(-1) == real.sum(-1, keepdim=True)
    mask &= ~(last & real.bool())
    labels = torch.full_like(ids, -100)
    labels[:, 1:] = ids[:, 1:].where(mask[:, :-1], -100)
    batch = {"input_ids": ids, "attention_mask": real, "labels": labels}
    return {**batch, "layout": layout_of({**batch, "kind": torch.zeros(3)})}, mask


@pytest.mark.slow
@pytest.mark.parametrize("padded_left", [False, True])
def test_served_teacher_returns_the_model_distributions(
    vllm: tuple[FakeVllm, str], padded_left: bool
) -> None:
    server, url = vllm
    batch, mask = make_padded_batch(padded_left)
    distributions = ServedTeacher("m", url, K).distributions(batch, [0, 2])
    counts = [len(distribution.ids) for distribution in distributions]
    assert counts == mask.sum(-1)[[0, 2]].tolist()
    for row, distribution in zip((0, 2), distributions, strict=True):
        real = batch["attention_mask"][row].bool()
        with torch.no_grad():
            logits = server.model(batch["input_ids"][row][real][None]).logits[0]
        want = logits.log_softmax(-1)[mask[row][real]].topk(K)
        assert torch.equal(distribution.ids, want.indices)
        assert torch.allclose(distribution.logp, want.values, atol=1e-5)
        assert distribution.entropy is None


def test_too_few_ids_in_the_student_vocabulary_are_rejected(vllm: tuple[FakeVllm, str]) -> None:
    _, url = vllm
    batch, _ = make_padded_batch(False)
    with pytest.raises(ModelError, match="the cache keeps"):
        ServedTeacher("m", url, K, vocab=K // 2).distributions(batch, [0, 1, 2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("limit", "greater than max allowed"),
        ("silent", "does not return prompt log-probabilities"),
        ("few", "per position"),
        ("odd", "cannot be parsed"),
    ],
)
def test_unusable_server_responses_are_reported(
    vllm: tuple[FakeVllm, str], fault: str, words: str
) -> None:
    server, url = vllm
    server.fault = fault
    batch, _ = make_padded_batch(False)
    with pytest.raises(ModelError, match=words) as caught:
        ServedTeacher("m", url, K).distributions(batch, [0])
    assert url in str(caught.value)


def test_unreachable_server_is_reported() -> None:
    teacher = ServedTeacher("m", "http://127.0.0.1:9/v1", K)
    teacher.client = teacher.client.with_options(max_retries=0)
    batch, _ = make_padded_batch(False)
    with pytest.raises(ModelError, match="did not respond"):
        teacher.distributions(batch, [0])


def kd_config(student: Path, teacher: dict[str, Any], name: str) -> dict[str, Any]:
    return {
        "method": "kd",
        "name": name,
        "student": str(student),
        "teacher": teacher,
        "data": {"train": {"path": "general:train", "limit": 12}, "max_length": 64},
        "trainer": {
            "max_steps": 3,
            "batch_size": 4,
            "device": "cpu",
            "attention_weight": 0.0,
            "learning_rate": 0.01,
        },
    }


@pytest.mark.slow
def test_served_teacher_gives_the_same_training_losses(
    vllm: tuple[FakeVllm, str],
    tiny_teacher: Path,
    paths: Paths,
    tmp_path: Path,
) -> None:
    """Compare with an in-process teacher using the same cache; `shell` has no weights."""
    server, url = vllm
    student, shell = tmp_path / "student", tmp_path / "shell"
    make_llama(student, seed=7, num_hidden_layers=2)
    shell.mkdir()
    for file in tiny_teacher.iterdir():
        if file.suffix != ".safetensors":
            (shell / file.name).write_bytes(file.read_bytes())
    cache = {"k": K, "tail": "bucket"}
    teachers = {
        "here": {"model": str(tiny_teacher), "cache": cache},
        "there": {"model": str(shell), "cache": cache, "served": url},
    }
    for name, teacher in teachers.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(kd_config(student, teacher, name)))
        if name == "there":
            assert cli.run(["--home", str(paths.home), "cache", "build", str(path)]) == 0
            # Four of the twelve rows have no labelled token within 64 tokens.
            assert len(server.requests) == 8
            server.fault = "limit"  # cached rows are not requested again
        assert cli.run(["--home", str(paths.home), "train", str(path)]) == 0
    with Store(paths.store) as store:
        here, there = store.curve("here", "loss"), store.curve("there", "loss")
        checkpoint = store.checkpoint("there")
        parent = store.checkpoint(checkpoint.parents["teacher"]) if checkpoint else None
    assert len(here) == 3
    assert [loss for _, loss in there] == pytest.approx([loss for _, loss in here], rel=1e-4)
    assert parent is not None and parent.name == "shell" and parent.path == ""


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ({"served": "ftp://x/v1", "cache": {"tail": "bucket"}}, "http"),
        ({"served": "http://me:word@x/v1", "cache": {"tail": "bucket"}}, "without a key"),
        ({"served": "http://x/v1"}, "cache"),
        ({"served": "http://x/v1", "cache": {"k": 8}}, "bucket"),
    ],
)
def test_invalid_served_teacher_configs_are_rejected(teacher: dict[str, Any], words: str) -> None:
    from kdharness.harness.config.files import parse_config

    values = kd_config(Path("s"), {"model": "t/t", **teacher}, "x")
    with pytest.raises(ConfigError, match=words):
        parse_config(values)
    good = kd_config(
        Path("s"), {"model": "t/t", "served": "http://x/v1", "cache": {"tail": "bucket"}}, "x"
    )
    parse_config(good)
    good["trainer"]["temperature"] = 2.0
    with pytest.raises(ConfigError, match="temperature"):
        parse_config(good)
