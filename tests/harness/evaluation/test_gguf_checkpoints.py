"""GGUF files as checkpoints: scored on the same items as their source, and nothing else."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from transformers import AutoModelForCausalLM

from kdharness.harness.analysis.compare import compare_all
from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import ConfigError, JudgeError, ModelError
from kdharness.harness.evaluation import dry_run, pipeline
from kdharness.harness.models.llama_library import llama_library
from kdharness.harness.models.resolve import resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.runs.precheck import check_request
from kdharness.harness.store import Store
from kdharness.trainers.exports.export import export_gguf
from support.commands import CommandLine
from support.fake_llama import FakeLlama, fake_package
from support.files import WriteRows
from support.gguf_files import write_gguf
from support.models import make_llama
from support.reporters import Listener


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a stand-in for llama.cpp in place of the package."""
    package = fake_package()
    monkeypatch.setitem(sys.modules, "llama_cpp", package)
    llama_library.cache_clear()
    yield package
    llama_library.cache_clear()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    make_llama(tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture
def file(source: Path, paths: Paths, tmp_path: Path) -> Path:
    """Return an exported file; what is compared with llama.cpp there is left out."""
    made = export_gguf(str(source), str(tmp_path / "out"), paths)
    return made.folder / "m-q8_0.gguf"


@pytest.fixture
def bench(write_jsonl: WriteRows) -> str:
    rows = [
        {
            "id": str(n),
            "prompt": f"p{n}",
            "reference": "Fine. Rating: [[7]]",
            "metric": "exact_match",
        }
        for n in range(9)
    ]
    return str(write_jsonl("mine.jsonl", rows))


def config_of(bench: str, *models: object, **changes: Any) -> EvalConfig:
    names = [str(model) for model in models]
    return EvalConfig(checkpoints=names, benches=[bench], max_new_tokens=32, **changes)


def test_a_file_answers_for_itself_beside_its_source(
    file: Path, source: Path, bench: str, paths: Paths, store: Store, llama: Any
) -> None:
    config = config_of(bench, source, file)
    assert [
        row["answers"]
        for row in dry_run.plan(config, paths, store, pipeline.load_benches(config, paths))
    ] == [9, 9]
    check_request(config, paths)
    result = pipeline.run(config, paths, store, NullReporter())
    assert result["checkpoints"] == ["m", "m-q8_0"]
    scores = {s.checkpoint: s for s in leaderboard(store, paths) if s.metric == "score"}
    assert scores["m-q8_0"].value == 1.0 and scores["m"].value == 0.0
    assert not any(flag.startswith("answered-by") for flag in scores["m-q8_0"].flags)
    (row,) = [d for d in compare_all(store, paths, ["m", "m-q8_0"]) if d.bench == "mine"]
    assert (row.gap.n, row.gap.value) == (9, 1.0)
    again = pipeline.run(config_of(bench, "m-q8_0"), paths, store, NullReporter())
    assert again["answers"] == 0


class TorchLlama(FakeLlama):
    """A stand-in that computes what a model of transformers does."""

    folder: Path

    def n_vocab(self) -> int:
        return 400

    def eval(self, tokens: Any) -> None:
        self.tokens = [*self.tokens, *tokens]
        model = AutoModelForCausalLM.from_pretrained(self.folder).eval()
        with torch.no_grad():
            self.scores = model(torch.tensor([self.tokens])).logits[0].numpy().astype(numpy.float32)


def heldout(paths: Paths, store: Store, *models: object) -> tuple[dict[str, float], list[str]]:
    listener = Listener()
    config = EvalConfig(checkpoints=[str(m) for m in models], benches=["heldout"], limit=4)
    pipeline.run(config, paths, store, listener)
    found = {
        s.checkpoint: s.value or 0.0 for s in leaderboard(store, paths) if s.metric == "domain_loss"
    }
    return found, [text for _, text in listener.said]


def test_held_out_loss_is_measured_by_its_own_logits(
    file: Path, source: Path, paths: Paths, store: Store, llama: Any
) -> None:
    TorchLlama.folder = source
    llama.Llama = TorchLlama
    found, _ = heldout(paths, store, source, file)
    assert found["m-q8_0"] == pytest.approx(found["m"], rel=1e-5)
    assert all(made.options["logits_all"] for made in FakeLlama.made)


def test_a_file_whose_source_is_elsewhere(
    file: Path, source: Path, tmp_path: Path, llama: Any
) -> None:
    """It is found by its header where its source is stored; held-out loss is left out elsewhere."""
    moved = Path(shutil.copy(file, tmp_path / "other.gguf"))
    paths = Paths(tmp_path / "second")
    with Store(paths.store) as store:
        found, said = heldout(paths, store, moved)
        known = store.checkpoint("other.gguf")
        assert found == {} and known is not None
        assert (known.method, known.parents) == ("model", {})
        assert any("held-out loss of other.gguf is not measured" in text for text in said)
    third = Paths(tmp_path / "third")
    with Store(third.store) as store:
        TorchLlama.folder = source
        llama.Llama = TorchLlama
        found, _ = heldout(third, store, source, moved)
        known = store.checkpoint("other.gguf")
        assert known is not None and known.method == "export"
        first = store.checkpoint(known.parents["source"])
        assert first is not None and first.name == "m" and set(found) == {"m", "other.gguf"}


def test_a_file_made_again_keeps_its_name_and_the_earlier_scores(
    file: Path, source: Path, bench: str, paths: Paths, store: Store, tmp_path: Path, llama: Any
) -> None:
    pipeline.run(config_of(bench, file), paths, store, NullReporter())
    write_gguf(file)
    pipeline.run(config_of(bench, file), paths, store, NullReporter())
    names = {c.name: len(store.answers(c.id)) for c in store.checkpoints() if c.name != "m"}
    assert names == {"m-q8_0": 9, "m-q8_0@old": 9}


def test_a_file_that_is_gone_is_named(
    file: Path, bench: str, paths: Paths, store: Store, llama: Any
) -> None:
    file.unlink()
    for name in ("m-q8_0", str(file)):
        with pytest.raises(ModelError, match="GGUF file of checkpoint m-q8_0 does not exist"):
            pipeline.run(config_of(bench, name), paths, store, NullReporter())
    with pytest.raises(ModelError, match="no such GGUF file"):
        pipeline.run(config_of(bench, "never.gguf"), paths, store, NullReporter())


@pytest.mark.parametrize("named", [True, False])
def test_weights_are_not_taken_from_a_file(
    named: bool, file: Path, source: Path, paths: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    name = "m-q8_0" if named else str(file)
    with pytest.raises(ModelError, match="can be evaluated, but not trained"):
        resolve_model(name, paths)
    for words in (
        ("merge-adapter", name, str(tmp_path / "x")),
        ("export", "gguf", name, str(tmp_path / "x")),
        ("publish", name, "--to", "me/x", "--dry-run"),
        ("eval", "--ckpt", str(source), "--bench", "heldout", "--teacher", name),
    ):
        code, _, err = kd(*words)
        assert code == 1 and "can be evaluated, but not trained" in err and "Traceback" not in err


def test_other_engines_do_not_answer_for_a_file(
    file: Path, bench: str, paths: Paths, store: Store, tmp_path: Path, llama: Any
) -> None:
    other = write_gguf(tmp_path / "else.gguf")
    for engine, words in (
        ("vllm", "which vllm does not serve"),
        (f"llama:{other}", "another file"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            pipeline.run(config_of(bench, file, answer_engine=engine), paths, store, NullReporter())
        assert caught.value.where == "answer_engine"
    own = config_of(bench, file, answer_engine=f"llama:{file}")
    pipeline.run(own, paths, store, NullReporter())
    assert pipeline.run(config_of(bench, file), paths, store, NullReporter())["answers"] == 0


@pytest.mark.parametrize("field", ["checkpoints", "baseline"])
def test_without_llama_cpp_nothing_begins(
    field: str,
    file: Path,
    source: Path,
    paths: Paths,
    write_jsonl: WriteRows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = str(write_jsonl("pairs.jsonl", [{"id": "1", "prompt": "p", "metric": "pair"}]))
    config = (
        config_of(bench, file)
        if field == "checkpoints"
        else config_of(bench, source, baseline=str(file))
    )
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(JudgeError, match="needs llama-cpp-python") as caught:
        check_request(config, paths)
    assert caught.value.where == field


@pytest.mark.parametrize("inside", [True, False])
def test_removing_a_file_leaves_what_is_outside_the_home(
    inside: bool, source: Path, paths: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    folder = (paths.models if inside else tmp_path) / "made"
    export_gguf(str(source), str(folder), paths)
    kd.ok("rm", "m-q8_0", "--yes")
    with Store(paths.store) as store:
        assert store.checkpoint("m-q8_0") is None and store.checkpoint("m") is not None
    assert (folder / "m-q8_0.gguf").exists() is not inside
    assert not list(folder.glob(".removing-*"))


def test_a_file_is_renamed_and_shown_with_its_source(
    file: Path, paths: Paths, kd: CommandLine
) -> None:
    kd.ok("rename", "m-q8_0", "small")
    assert resolve_error(paths) and file.exists()
    with Store(paths.store) as store:
        known = store.checkpoint("small")
        assert known is not None and known.path == str(file) and "source" in known.parents


def resolve_error(paths: Paths) -> bool:
    with pytest.raises(ModelError, match="can be evaluated, but not trained"):
        resolve_model("small", paths)
    return True
