"""vllm: against a stand-in process: start, readiness, calls, failures, and that nothing is left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.config.evaluation import EvalConfig, parse_spec
from kdharness.harness.config.files import make_eval_config, parse_config
from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ConfigError, JudgeError, ModelError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.runs.precheck import check_request
from kdharness.harness.store import Store
from kdharness.harness.types import Finish, GenerationRequest
from kdharness.judges.engines import vllm
from kdharness.judges.engines.local import LocalEngine
from kdharness.judges.engines.openai import OpenAIEngine
from kdharness.judges.engines.vllm import VLLMEngine, visible_devices
from support.adapters import make_adapter
from support.files import WriteRows
from support.models import make_llama
from support.vllm import Configure, Opened, ask, gone, read, replies_of


def test_one_server_answers_and_is_gone_with_its_workers(
    configure: Configure, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-user")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    record = configure()
    engine = opened()
    assert engine.probe(logprobs=True).logprobs and not record.exists()
    sampled = ask(temperature=0.7, seed=3, max_new_tokens=5000)
    replies = replies_of(engine, sampled, ask(max_new_tokens=1, top_logprobs=2))
    assert replies[0].text == "Fine. Rating: [[7]]" and not replies[0].error
    assert dict(replies[1].top_logprobs or ()) == {"m": -0.2, "M": -1.8}
    start, *bodies = read(record)
    arguments = start["arguments"]
    assert arguments[0] == "serve" and arguments[1] == engine.source
    assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
    # The distribution is the model's own, not cut by a generation config.
    assert arguments[arguments.index("--generation-config") + 1] == "vllm"
    # A key of its own in the environment, not on the command line; the user's is not handed on.
    key = start["environment"]["VLLM_API_KEY"]
    assert len(key) > 30 and key not in " ".join(arguments)
    assert start["environment"]["OPENAI_API_KEY"] is None
    body = next(b["body"] for b in bodies if b["body"].get("temperature"))
    assert body["seed"] == 3 and body["model"] == arguments[-1]
    # The reply fits into the context, and ends where the template ends a turn.
    assert 0 < body["max_tokens"] < 4096
    assert set(body["stop_token_ids"]) >= {engine._tokenizer.convert_tokens_to_ids("<|im_end|>")}
    replies_of(engine, ask("again"))
    assert sum("pid" in line for line in read(record)) == 1
    engine.close()
    assert gone(start["pid"], start["worker"])
    # A closed engine starts again when it is asked again.
    assert replies_of(engine, ask())[0].text


def test_a_prompt_beyond_the_context_is_an_error_of_that_reply(
    configure: Configure, opened: Opened
) -> None:
    configure(context=40)
    replies = replies_of(opened(), ask("word " * 200), ask("Hi", thinking_room=4096))
    assert "context length is 40" in replies[0].error and replies[0].finish is Finish.ERROR
    assert not replies[1].error


def test_options_come_from_settings_and_config(configure: Configure, opened: Opened) -> None:
    record = configure(
        "  max_model_len: 2048\n  gpu_memory_utilization: 0.5\n  dtype: float16\n"
        "  tensor_parallel_size: 2\n  options: [--enforce-eager, --seed=1]\n"
    )
    replies_of(opened(dtype="bfloat16", trust_remote_code=True, device="cuda:1"), ask())
    start = read(record)[0]
    words = " ".join(start["arguments"])
    for part in (
        "--max-model-len 2048",
        "--gpu-memory-utilization 0.5",
        "--dtype bfloat16",
        "--tensor-parallel-size 2",
        "--enforce-eager --seed=1",
        "--trust-remote-code",
    ):
        assert part in words
    assert start["environment"]["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(
    ("given", "seconds"), [({}, 3600.0), ({"timeout": 120}, 120.0), ({"timeout": 7.5}, 7.5)]
)
def test_a_call_may_queue_in_the_server_unless_the_user_set_a_limit(
    configure: Configure, opened: Opened, given: dict[str, float], seconds: float
) -> None:
    """A worker reads every field of its config from the store, the defaults too."""
    configure()
    stored = make_eval_config(checkpoints=["x"], **given).model_dump(mode="json", by_alias=True)
    read_back = parse_config(stored)
    assert isinstance(read_back, EvalConfig)
    engine = opened(**{name: stored[name] for name in stored})
    replies_of(engine, ask())
    assert engine._client is not None and engine._client.timeout == seconds
    spec = parse_spec("openai:m@http://127.0.0.1:9/v1")
    endpoint = OpenAIEngine.open(spec, read_back, engine.paths)
    assert endpoint.timeout == min(seconds, 120.0)
    # The default is hashed as what it was at first.
    former = EvalConfig.model_validate({**stored, "timeout": 120.0})
    assert (config_hash(read_back) == config_hash(former)) is (given != {"timeout": 7.5})


def test_a_hub_model_is_served_at_its_commit(
    configure: Configure, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure()
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr(vllm, "resolve_model", lambda source, _: f"{source}@{commit}")
    program = VLLMEngine("org/model", EvalConfig(), paths)._launch.program
    assert program[1:3] == ("serve", "org/model")
    for option in ("--revision", "--tokenizer-revision"):
        assert program[program.index(option) + 1] == commit


@pytest.mark.parametrize(
    "line",
    [
        "options: [--port=1]",
        "options: [--api_key, x]",
        "options: [--chat-template, x]",
        "gpu_memory_utilization: 1.5",
        "speed: 3",
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(
    configure: Configure, opened: Opened, line: str
) -> None:
    configure(f"  {line}\n")
    with pytest.raises(ConfigError, match="vllm"):
        opened()


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("auto", None, None),
        ("auto", "3,4", "3,4"),
        ("cpu", "3,4", ""),
        ("cuda:1", None, "1"),
        ("cuda:1", "3,4", "4"),
        ("cuda:0", "GPU-ab, GPU-cd", "GPU-ab"),
        ("cuda", "", ""),
        ("cuda:1", "5,4,-1,3", "4"),
    ],
)
def test_devices_are_counted_among_the_visible_ones(
    device: str, visible: str | None, expected: str | None
) -> None:
    assert visible_devices(device, visible) == expected


@pytest.mark.parametrize("visible", ["3,4", "", " ", "-1", "0,-1,1,2", "0"])
def test_a_device_that_is_hidden_is_refused(visible: str) -> None:
    """An empty CUDA_VISIBLE_DEVICES hides all; CUDA ignores what follows an invalid one."""
    with pytest.raises(JudgeError, match="no device cuda:2"):
        visible_devices("cuda:2", visible)


def test_an_evaluation_answers_and_judges_with_it(
    configure: Configure, paths: Paths, tiny_teacher: Path, write_jsonl: WriteRows
) -> None:
    """The judge's server is not started before the answers are there."""
    record = configure()
    bench = write_jsonl("mine.jsonl", [{"id": "1", "prompt": "p"}, {"id": "2", "prompt": "q"}])
    spec = f"vllm:{tiny_teacher}"
    config = EvalConfig(
        checkpoints=[str(tiny_teacher)], benches=[str(bench)], judge=[spec], answer_engine=spec
    )
    with Store(paths.store) as store:
        done = pipeline.run(config, paths, store, NullReporter())
        assert (done["answers"], done["judgments"], done["failed_judgments"]) == (2, 2, 0)
        rows = store.judgments(store.checkpoints()[0].id)
        assert {(row.judge, row.value) for row in rows} == {(spec, 7.0)}
        # Nothing is asked twice, and nothing is started for that.
        assert pipeline.run(config, paths, store, NullReporter())["judgments"] == 0
    lines = read(record)
    starts = [n for n, line in enumerate(lines) if "pid" in line]
    assert starts == [0, 3] and len(lines) == 6
    assert gone(*(line["pid"] for line in lines if "pid" in line))


def test_each_checkpoint_is_served_and_one_server_is_for_one(
    configure: Configure, paths: Paths, tmp_path: Path, tiny_teacher: Path, write_jsonl: WriteRows
) -> None:
    record = configure()
    other = tmp_path / "other"
    make_llama(other, seed=2)
    bench = str(write_jsonl("mine.jsonl", [{"id": "1", "prompt": "p", "reference": "r"}]))
    names = [str(tiny_teacher), str(other)]
    with Store(paths.store) as store:
        config = EvalConfig(checkpoints=names, benches=[bench], answer_engine="vllm")
        check_request(config, paths)
        assert pipeline.run(config, paths, store, NullReporter())["answers"] == 2
        starts = [line["arguments"][1] for line in read(record) if "pid" in line]
        assert starts == names
        engines = [a.info["engine"] for c in store.checkpoints() for a in store.answers(c.id)]
        assert sorted(engines) == sorted(f"vllm:{name}" for name in names)
        wrong = config.model_copy(update={"answer_engine": f"vllm:{other}", "max_new_tokens": 9})
        with pytest.raises(ConfigError, match="is another model than tiny-teacher"):
            pipeline.run(wrong, paths, store, NullReporter())


def test_a_judge_is_closed_before_the_next_one_of_its_panel(
    configure: Configure,
    paths: Paths,
    tiny_teacher: Path,
    write_jsonl: WriteRows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = configure()
    bench = write_jsonl("mine.jsonl", [{"id": "1", "prompt": "p"}])
    alive: list[bool] = []
    generate = LocalEngine.stream

    def stream(self: LocalEngine, requests: Sequence[GenerationRequest]) -> Any:
        alive.append(any(server.is_running for server in vllm._current))
        return generate(self, requests)

    monkeypatch.setattr(LocalEngine, "stream", stream)
    config = EvalConfig(
        checkpoints=[str(tiny_teacher)],
        benches=[str(bench)],
        max_new_tokens=4,
        judge_max_tokens=4,
        judge=[f"vllm:{tiny_teacher}", f"local:{tiny_teacher}"],
    )
    with Store(paths.store) as store:
        assert pipeline.run(config, paths, store, NullReporter())["judgments"] == 2
    assert alive == [False, False] and any("pid" in line for line in read(record))


# ---------------------------------------------------------------- refused


def test_only_adapters_and_programs_that_are_needed_are_refused(
    configure: Configure,
    paths: Paths,
    tmp_path: Path,
    tiny_teacher: Path,
    write_jsonl: WriteRows,
) -> None:
    """Not where losses are measured, nor where all answers are stored."""
    configure()
    adapter = make_adapter(tiny_teacher, tmp_path / "adapter")
    bench = str(write_jsonl("mine.jsonl", [{"id": "1", "prompt": "p", "reference": "r"}]))
    config = EvalConfig(
        checkpoints=[str(adapter)], benches=[bench], max_new_tokens=4, answer_engine="vllm"
    )
    check_request(config.model_copy(update={"benches": ["heldout"]}), paths)
    with pytest.raises(ModelError, match="is an adapter") as caught:
        check_request(config, paths)
    assert caught.value.where == "answer_engine"
    with Store(paths.store) as store:
        alone = config.model_copy(update={"answer_engine": None})
        pipeline.run(alone, paths, store, NullReporter())
        check_request(config, paths)
        # What failed elsewhere is not retried by a program that cannot serve it.
        store.db.execute("UPDATE answers SET finish = 'error'")
        store.db.conn.commit()
        both = config.model_copy(update={"checkpoints": [str(adapter), str(tiny_teacher)]})
        check_request(both, paths)
        assert pipeline.run(both, paths, store, NullReporter())["answers"] == 1
        paths.settings.write_text("vllm: {command: /nowhere/vllm}")
        check_request(config, paths)
        check_request(both, paths)
        again = both.model_copy(update={"max_new_tokens": 5})
        with pytest.raises(JudgeError, match="no such program"):
            check_request(again.model_copy(update={"checkpoints": [str(tiny_teacher)]}), paths)


def test_without_vllm_the_spec_is_refused_with_what_to_install(
    paths: Paths, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(JudgeError, match="not installed") as caught:
        VLLMEngine.open(parse_spec(f"vllm:{tiny_teacher}"), EvalConfig(), paths)
    assert "pip install vllm" in caught.value.hint and str(paths.settings) in caught.value.hint
    paths.home.mkdir(exist_ok=True)
    paths.settings.write_text("vllm: {command: /nowhere/vllm}")
    with pytest.raises(JudgeError, match="no such program: /nowhere/vllm"):
        VLLMEngine.open(parse_spec(f"vllm:{tiny_teacher}"), EvalConfig(), paths)


def test_adapters_and_missing_models_are_refused(
    configure: Configure, paths: Paths, tmp_path: Path, tiny_teacher: Path
) -> None:
    configure()
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tiny_teacher), "r": 2}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="is an adapter") as caught:
        VLLMEngine.open(parse_spec(f"vllm:{adapter}"), EvalConfig(), paths)
    assert "kdharness merge-adapter" in caught.value.hint
    with pytest.raises(ModelError, match="missing"):
        VLLMEngine.open(parse_spec(f"vllm:{tmp_path / 'missing'}"), EvalConfig(), paths)
