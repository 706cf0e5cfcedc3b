"""llama: with a stand-in for llama.cpp: requests, limits, stops, errors, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.assets import file_sha256
from kdharness.harness.config.evaluation import EvalConfig, parse_spec
from kdharness.harness.config.files import make_eval_config
from kdharness.harness.errors import ConfigError, JudgeError, KDHarnessError, ModelError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.models import engine_files, identity
from kdharness.harness.models.llama_library import llama_library
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.runs.precheck import check_request
from kdharness.harness.store import Store
from kdharness.harness.types import Finish, GenerationRequest, Reply, digest
from kdharness.judges.engines import llama
from kdharness.judges.engines.llama import LlamaEngine
from support.commands import CommandLine
from support.fake_llama import FakeLlama, fake_package
from support.files import WriteRows
from support.gguf_files import write_gguf
from support.models import make_llama

Make = Callable[..., LlamaEngine]


@pytest.fixture
def make(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Return a function that opens the engine; attributes of the stand-in are set by name."""

    def opened(*, device: str = "auto", gpu: bool = False, **attributes: Any) -> LlamaEngine:
        monkeypatch.setitem(sys.modules, "llama_cpp", fake_package(gpu=gpu))
        llama_library.cache_clear()
        for name, value in attributes.items():
            monkeypatch.setattr(FakeLlama, name, value)
        spec = parse_spec(f"llama:{write_gguf(tmp_path / 'm.gguf')}")
        return LlamaEngine.open(spec, EvalConfig(device=device), paths)

    yield opened
    llama_library.cache_clear()


def ask(text: str = "Hello", role: str = "user", **settings: Any) -> GenerationRequest:
    return GenerationRequest(({"role": role, "content": text},), **settings)


def replies(engine: LlamaEngine, *requests: GenerationRequest) -> dict[int, Reply]:
    return dict(engine.stream(requests))


def test_replies_end_at_the_turn_the_limit_or_a_stop(make: Make) -> None:
    found = replies(
        make(), ask(), ask(max_new_tokens=4), ask(stops=("[[7]",)), ask(temperature=0.5, seed=1)
    )
    assert found[0] == Reply(
        "Fine. Rating: [[7]]", Finish.STOP, 8, len("Fine. Rating: [[7]]"), found[0].seconds
    )
    assert (found[1].text, found[1].finish, found[1].tokens) == ("Fine", Finish.LENGTH, 4)
    assert found[2].text == "Fine. Rating: [[7]" and found[2].finish is Finish.STOP
    assert found[3].text == found[0].text
    assert len(FakeLlama.made) == 1 and FakeLlama.made[0].options["n_gpu_layers"] == -1


def test_a_verdict_inside_reasoning_does_not_end_a_reply(make: Make) -> None:
    reply = "<think>[[7]] or</think>[[8]] more"
    found = replies(make(reply=reply), ask(stops=("[[7]]", "[[8]]")))
    assert found[0].text == "<think>[[7]] or</think>[[8]]"


def test_a_character_cut_in_two_is_replaced(make: Make) -> None:
    assert replies(make(reply="é!"), ask(max_new_tokens=1))[0].text == "\ufffd"


def test_log_probabilities_of_the_first_token(make: Make) -> None:
    request = ask(max_new_tokens=1, top_logprobs=2, choices=("m", "F", "two"))
    found = dict(replies(make(), request)[0].top_logprobs or ())
    assert found["F"] == pytest.approx(0, abs=1e-4) and found["m"] == pytest.approx(-20, abs=1e-3)
    assert "two" not in found and len(found) == 3


def test_numbers_after_a_begun_reply(make: Make) -> None:
    for reply, number in (("7]]", "7"), ("10]]", "10"), ("1]]", "1")):
        found = replies(make(reply=reply), ask(opening="Rating: [[", top_logprobs=20))[0]
        assert found.top_logprobs is not None and found.top_logprobs[0][0] == number
        # One byte of 257 has the logit 20: what is said is nearly certain.
        assert found.top_logprobs[0][1] == pytest.approx(0, abs=1e-5) and not found.error
        assert found.info["likeliest"][0] == number[0] and found.text == ""
    off = replies(make(reply="85]]"), ask(opening="Rating: [[", top_logprobs=20))[0]
    assert max(value for _, value in off.top_logprobs or ()) < -10
    many = replies(make(reply="7]]"), *[ask(opening="[[", top_logprobs=5)] * 2, ask())
    assert many[0].top_logprobs == many[1].top_logprobs and many[2].text == "7]]"


def test_a_model_that_cannot_forget_its_last_tokens_reads_them_anew(make: Make) -> None:
    engine = make(reply="10]]")
    request = ask(opening="Rating: [[", top_logprobs=20)
    first = replies(engine, request)[0]
    sys.modules["llama_cpp"].llama_model_is_recurrent = lambda _: True
    second = replies(engine, request)[0]
    # A prompt is read in one go here, and its last bytes are not said one by one.
    assert second.prompt_tokens == first.prompt_tokens and not second.error


def test_a_context_grows_up_to_the_models(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "FIRST_CONTEXT", 64)
    engine = make()
    found = replies(engine, ask("x" * 590, max_new_tokens=99), ask("x" * 700), ask("Hi"))
    # The limit is what is left: 600 - 593.
    assert (found[0].tokens, found[0].finish) == (7, Finish.LENGTH)
    assert "has 703 tokens, but the context length is 600" in found[1].error
    assert found[1].prompt_tokens == 703 and not found[2].error
    assert [model.closed for model in FakeLlama.made] == [True, False]
    engine.close()
    engine.close()
    assert all(model.closed for model in FakeLlama.made)


@pytest.mark.parametrize("at", ["prompt", "reply"])
def test_a_stop_request_is_noticed_within_a_reply(
    make: Make, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    monkeypatch.setattr(llama, "LOOK", -1.0)
    monkeypatch.setattr(llama, "CHUNK", 4)
    engine = make()
    looks = 2 if at == "prompt" else 80

    def idle() -> None:
        nonlocal looks
        looks -= 1
        if looks == 0:
            engine.stop_soon()

    engine.idle = idle
    assert replies(engine, ask("x" * 300, max_new_tokens=300), ask()) == {}
    assert looks == 0


def test_errors_of_one_reply_are_its_own(make: Make) -> None:
    def broken(model: FakeLlama) -> None:
        if ord("!") in model.tokens:
            raise RuntimeError("llama_decode returned -3")

    found = replies(
        make(broken=broken, template="no system"),
        ask("a!"),
        ask("be brief", role="system"),
        ask("fine"),
    )
    assert "could not read the prompt: llama_decode returned -3" in found[0].error
    assert "System role not supported" in found[1].error
    assert found[0].finish is found[1].finish is Finish.ERROR and not found[2].error


def test_logits_that_are_no_numbers_are_an_error(make: Make) -> None:
    def logits(model: FakeLlama) -> Any:
        import numpy

        return numpy.full(257, numpy.nan, dtype=numpy.float32)

    assert "not a number" in replies(make(logits=logits), ask())[0].error


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"complaint": "unknown model architecture: 'x'"}, "cannot load it: unknown model arch"),
        ({"template": ""}, "no chat template"),
        ({"template": "{% if"}, "chat template is damaged: unexpected end"),
        ({"device": "cuda:1"}, "built for the CPU alone, and the device is cuda:1"),
    ],
)
def test_what_cannot_be_loaded_is_explained(
    make: Make, attributes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        replies(make(**attributes), ask())
    assert caught.value.hint or caught.value.where
    # A file that was loaded and then refused does not keep its memory.
    assert all(llama.closed for llama in FakeLlama.made)


def test_a_report_card_of_it(make: Make, kd: CommandLine, tmp_path: Path) -> None:
    make(trained_on=50_000)
    spec = f"llama:{tmp_path / 'm.gguf'}"
    rows = kd.json("judge", "check", spec, "--items", "2")
    assert 0 < next(row for row in rows if row["key"] == "readable")["share"] < 1
    listed = kd.json("judge", "list")
    assert [row["judge"] for row in listed] == [spec]


def test_a_report_card_of_a_relative_path_is_that_of_evaluations(
    make: Make, kd: CommandLine, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(trained_on=50_000)
    monkeypatch.chdir(tmp_path)
    paths.home.mkdir(exist_ok=True)
    paths.settings.write_text("judge: llama:m.gguf\n")
    kd.json("judge", "check", "llama:m.gguf", "--items", "2")
    used = make_eval_config(checkpoints=["x"], judge=["llama:m.gguf"]).judge
    listed = kd.json("judge", "list")
    assert [(row["judge"], row["default"]) for row in listed] == [(used[0], True)]
    assert listed[0]["checked"] and used[0] == f"llama:{tmp_path / 'm.gguf'}"


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cpu", {"n_gpu_layers": 0}),
        ("cuda", {"n_gpu_layers": -1}),
        ("cuda:1", {"n_gpu_layers": -1, "main_gpu": 1, "split_mode": 0}),
    ],
)
def test_devices(make: Make, device: str, expected: dict[str, int]) -> None:
    replies(make(device=device, gpu=True), ask())
    options = FakeLlama.made[0].options
    assert {name: options[name] for name in expected} == expected


# ---------------------------------------------------------------- files


def test_parts_are_found_checked_and_hashed(make: Make, paths: Paths, tmp_path: Path) -> None:
    one = make()
    folder = tmp_path / "parts"
    names = [f"big-{n:05}-of-00002.gguf" for n in (1, 2)]
    first, second = (write_gguf(folder / name) for name in names)
    two = LlamaEngine(str(first), paths)
    assert two.files == [first, second] and two.identity != one.identity
    second.write_bytes(second.read_bytes() + b"\0")
    assert LlamaEngine(str(first), paths).identity != two.identity
    with pytest.raises(ModelError, match="later part") as caught:
        engine_files.find_gguf(str(second), paths)
    assert names[0] in caught.value.hint
    second.unlink()
    with pytest.raises(ModelError, match="1 of the model's 2 parts are missing"):
        engine_files.find_gguf(str(first), paths)


@pytest.mark.parametrize(
    "written", ["m-00001-of-00002.GGUF", "m-00001-OF-00002.gguf", "m-00002-of-00002.Gguf"]
)
def test_parts_that_llama_cpp_would_not_find_are_named(
    paths: Paths, tmp_path: Path, written: str
) -> None:
    """It puts the names together in lower case, and so finds no others."""
    path = write_gguf(tmp_path / written)
    with pytest.raises(ModelError, match=r"not a name under which llama\.cpp") as caught:
        engine_files.find_gguf(str(path), paths)
    assert "m-00001-of-00002.gguf" in caught.value.hint
    one = write_gguf(tmp_path / "One.GGUF")
    assert engine_files.find_gguf(str(one), paths) == [one]


def test_an_unchanged_file_is_read_once(
    make: Make, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []

    def counted(path: Path) -> str:
        reads.append(path)
        return file_sha256(path)

    monkeypatch.setattr(identity, "file_sha256", counted)
    monkeypatch.setattr(identity, "RACY_SECONDS", 0)
    one = make()
    first = one.identity
    assert first == digest("gguf", file_sha256(one.files[0]))
    assert LlamaEngine(one.source, paths).identity == first and reads == one.files
    one.files[0].write_bytes(one.files[0].read_bytes() + b"\0")
    assert LlamaEngine(one.source, paths).identity != first and len(reads) == 2


def cut_short(path: Path) -> Path:
    path.write_bytes(write_gguf(path).read_bytes()[:-64])
    return path


def not_gguf(path: Path) -> Path:
    path.write_bytes(b"PK\x03\x04 a zip file")
    return path


def folder_of(path: Path) -> Path:
    write_gguf(path.parent / "folder" / "in.gguf")
    return path.parent / "folder"


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda path: path, "no such GGUF file"),
        (lambda path: Path("mt-bench"), "mt-bench is not a GGUF file"),
        (folder_of, "is a folder[^$]*in.gguf"),
        (not_gguf, "not a GGUF file"),
        (cut_short, "tensors end at byte .* but the file has"),
        (lambda path: Path("~nobody\0"), "no such GGUF file"),
    ],
)
def test_files_that_are_no_models_are_refused_before_a_run(
    kd: CommandLine,
    make: Make,
    paths: Paths,
    tmp_path: Path,
    tiny_teacher: Path,
    prepare: Callable[[Path], Path],
    words: str,
) -> None:
    make()
    path = prepare(tmp_path / "x.gguf")
    with pytest.raises(KDHarnessError, match=words):
        engine_files.find_gguf(str(path), paths)
    if "\0" in str(path):
        return
    code, _, err = kd(
        "eval", "--ckpt", str(tiny_teacher), "--bench", "shop", "--answer-engine", f"llama:{path}"
    )
    assert code == 1 and "Traceback" not in err
    with Store(paths.store) as store:
        assert store.runs() == []


def test_without_the_package_the_spec_is_refused_before_a_run(
    kd: CommandLine,
    paths: Paths,
    tmp_path: Path,
    tiny_teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_files, "LLAMA", "no_such_package")
    spec = f"llama:{write_gguf(tmp_path / 'm.gguf')}"
    with pytest.raises(JudgeError, match="needs llama-cpp-python"):
        LlamaEngine.open(parse_spec(spec), EvalConfig(), paths)
    for command in (
        ("eval", "--ckpt", str(tiny_teacher), "--bench", "shop", "--answer-engine", spec),
        ("judge", "check", spec),
    ):
        code, _, err = kd(*command)
        assert code == 1 and "pip install 'kdharness[llama]'" in err and "Traceback" not in err
    with Store(paths.store) as store:
        assert store.runs() == []


def test_a_file_answers_for_one_checkpoint(
    make: Make, paths: Paths, tmp_path: Path, tiny_teacher: Path, write_jsonl: WriteRows
) -> None:
    """A copy of the file is the same model; a file that was written anew is another one."""
    make()
    bench = str(
        write_jsonl(
            "mine.jsonl", [{"id": "1", "prompt": "p", "reference": "r", "metric": "exact_match"}]
        )
    )
    other = tmp_path / "other"
    make_llama(other, seed=2)
    path = tmp_path / "m.gguf"
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(path.read_bytes())

    def evaluate(model: Path, file: Path) -> None:
        config = EvalConfig(
            checkpoints=[str(model)], benches=[bench], answer_engine=f"llama:{file}"
        )
        check_request(config, paths)
        pipeline.run(config, paths, store, NullReporter())

    with Store(paths.store) as store:
        evaluate(tiny_teacher, path)
        for file in (path, copy):
            with pytest.raises(ConfigError, match="has answered for tiny-teacher, and is not"):
                evaluate(other, file)
        write_gguf(path, architecture="qwen2")
        evaluate(other, path)
        engines = [a.info["engine"] for c in store.checkpoints() for a in store.answers(c.id)]
        assert engines == [f"llama:{path}"] * 2
        flags = [score.flags for score in leaderboard(store, paths)]
        assert flags and all("answered-by:llama" in each for each in flags)
