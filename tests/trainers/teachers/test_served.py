"""A teacher behind a server: the same numbers as one in this process, over vLLM's protocol."""

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
from kdharness.trainers.teachers.served import ServedTeacher
from support.models import make_llama

K = 12


class Vllm:
    """What vLLM answers to `prompt_logprobs`, from a model in this process; faults on demand."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.asked: list[dict[str, Any]] = []
        self.fault = ""

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append(body)
        k = body["prompt_logprobs"]
        if self.fault == "limit":
            return 400, {"error": {"message": f"Requested {k}, greater than max allowed: 5"}}
        with torch.no_grad():
            logits = self.model(torch.tensor([body["prompt"]])).logits[0].double()
        told: list[Any] = [None]
        for place, token in enumerate(body["prompt"][1:]):
            logp = logits[place].log_softmax(-1)
            chosen = {*logp.topk(3 if self.fault == "few" else k).indices.tolist(), token}
            ranked = sorted(chosen, key=lambda one: -logp[one])
            told.append(
                {
                    str(one): {"logprob": float(logp[one]), "rank": rank + 1, "decoded_token": "x"}
                    for rank, one in enumerate(ranked)
                }
            )
        choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": "length"}
        if self.fault != "silent":
            choice["prompt_logprobs"] = [{"a": 1}] * len(told) if self.fault == "odd" else told
        return 200, {
            "id": "x",
            "object": "text_completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
        }


@pytest.fixture
def vllm(tiny_teacher: Path) -> Iterator[tuple[Vllm, str]]:
    inner = Vllm(tiny_teacher)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/completions"
            status, body = inner.answer(json.loads(raw))
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield inner, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def a_batch(padded_left: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Three rows of 20, 14 and 17 tokens; about a third of their places are learnt."""
    torch.manual_seed(0)
    ids, real = torch.randint(3, 300, (3, 20)), torch.ones(3, 20, dtype=torch.long)
    for row, length in enumerate((20, 14, 17)):
        real[row, : 20 - length] = int(not padded_left)
        real[row, length:] = int(padded_left)
    if padded_left:
        real = real.flip(-1)
    mask = (torch.rand(3, 20) < 0.35) & real.bool()
    last = real.cumsum(-1) == real.sum(-1, keepdim=True)
    return {"input_ids": ids, "attention_mask": real}, mask & ~(last & real.bool())


@pytest.mark.parametrize("padded_left", [False, True])
def test_a_server_tells_what_the_model_thinks(vllm: tuple[Vllm, str], padded_left: bool) -> None:
    inner, url = vllm
    batch, mask = a_batch(padded_left)
    rows = torch.tensor([True, False, True])
    found = ServedTeacher("m", url, K).distributions(batch, rows, mask)
    assert [len(one.ids) for one in found] == mask.sum(-1)[rows].tolist()
    for row, one in zip((0, 2), found, strict=True):
        real = batch["attention_mask"][row].bool()
        with torch.no_grad():
            logits = inner.model(batch["input_ids"][row][real][None]).logits[0]
        want = logits.log_softmax(-1)[mask[row][real]].topk(K)
        assert torch.equal(one.ids, want.indices)
        assert torch.allclose(one.logp, want.values, atol=1e-5)
        assert one.entropy is None


def test_ids_that_the_student_lacks_are_left_out(vllm: tuple[Vllm, str]) -> None:
    _, url = vllm
    batch, mask = a_batch(False)
    rows = torch.ones(3, dtype=torch.bool)
    with pytest.raises(ModelError, match="the cache keeps"):
        ServedTeacher("m", url, K, vocab=K // 2).distributions(batch, rows, mask)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("limit", "greater than max allowed"),
        ("silent", "does not return prompt log-probabilities"),
        ("few", "per position"),
        ("odd", "cannot be parsed"),
    ],
)
def test_servers_that_cannot(vllm: tuple[Vllm, str], fault: str, words: str) -> None:
    inner, url = vllm
    inner.fault = fault
    batch, mask = a_batch(False)
    with pytest.raises(ModelError, match=words) as caught:
        ServedTeacher("m", url, K).distributions(batch, torch.tensor([True, False, False]), mask)
    assert url in str(caught.value)


def test_nobody_there() -> None:
    teacher = ServedTeacher("m", "http://127.0.0.1:9/v1", K)
    teacher.client = teacher.client.with_options(max_retries=0)
    batch, mask = a_batch(False)
    with pytest.raises(ModelError, match="did not respond"):
        teacher.distributions(batch, torch.tensor([True, False, False]), mask)


def settings(student: Path, teacher: dict[str, Any], name: str) -> dict[str, Any]:
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
def test_a_student_learns_the_same_from_a_served_teacher(
    vllm: tuple[Vllm, str],
    tiny_teacher: Path,
    paths: Paths,
    tmp_path: Path,
) -> None:
    """Against a teacher in this process with the same cache; the weights stay at the server."""
    inner, url = vllm
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
        path.write_text(yaml.safe_dump(settings(student, teacher, name)))
        if name == "there":
            assert cli.run(["--home", str(paths.home), "cache", "build", str(path)]) == 0
            assert len(inner.asked) == 8  # four of the twelve have nothing to learn in 64 tokens
            inner.fault = "limit"  # what is cached is not asked for again
        assert cli.run(["--home", str(paths.home), "train", str(path)]) == 0
    with Store(paths.store) as store:
        here, there = store.curve("here", "loss"), store.curve("there", "loss")
        made = store.checkpoint("there")
        parent = store.checkpoint(made.parents["teacher"]) if made else None
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
def test_configs_that_cannot_be_served(teacher: dict[str, Any], words: str) -> None:
    from kdharness.harness.config.files import parse_config

    values = settings(Path("s"), {"model": "t/t", **teacher}, "x")
    with pytest.raises(ConfigError, match=words):
        parse_config(values)
    good = settings(
        Path("s"), {"model": "t/t", "served": "http://x/v1", "cache": {"tail": "bucket"}}, "x"
    )
    parse_config(good)
    good["trainer"]["temperature"] = 2.0
    with pytest.raises(ConfigError, match="temperature"):
        parse_config(good)
