"""Which checkpoint an answering engine answers for: its own, one, and decided before any answer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import ConfigError
from kdharness.harness.evaluation import dry_run, pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.runs.precheck import check_request
from kdharness.harness.store import Store
from kdharness.harness.types import Finish
from support.commands import CommandLine
from support.files import WriteRows
from support.loopback import Loopback, completion
from support.models import make_llama
from support.reporters import Listener

LONG = "word " * 900


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Return the folder of another model."""
    make_llama(tmp_path / "other", seed=2)
    return tmp_path / "other"


@pytest.fixture
def bench(write_jsonl: WriteRows) -> str:
    return str(
        write_jsonl(
            "mine.jsonl", [{"id": "1", "prompt": "p", "reference": "r", "metric": "exact_match"}]
        )
    )


def config_of(bench: str, *models: Path, **changes: object) -> EvalConfig:
    return EvalConfig(
        checkpoints=[str(model) for model in models],
        benches=[bench],
        max_new_tokens=4,
        **changes,  # type: ignore[arg-type]
    )


def run(config: EvalConfig, paths: Paths, store: Store) -> dict[str, object]:
    return pipeline.run(config, paths, store, NullReporter())


def texts(store: Store) -> dict[str, list[str]]:
    return {c.name: [a.text for a in store.answers(c.id)] for c in store.checkpoints()}


@pytest.mark.parametrize("models", [("teacher", "other"), ("other",), ("other", "teacher")])
def test_a_local_model_does_not_answer_for_another(
    models: tuple[str, ...],
    paths: Paths,
    store: Store,
    tiny_teacher: Path,
    other: Path,
    bench: str,
    kd: CommandLine,
) -> None:
    """The same command, run again, stored the first model's answers under the second one's name."""
    folders = [tiny_teacher if name == "teacher" else other for name in models]
    config = config_of(bench, *folders, answer_engine=f"local:{tiny_teacher}")
    for _ in range(2):
        with pytest.raises(ConfigError, match="is another model than other") as caught:
            run(config, paths, store)
        assert caught.value.where == "answer_engine"
        assert not any(texts(store).values())
    for refuses in (
        lambda: dry_run.plan(config, paths, store, pipeline.load_benches(config, paths)),
        lambda: check_request(config, paths),
    ):
        with pytest.raises(ConfigError, match="is another model than other"):
            refuses()
    names = [argument for folder in folders for argument in ("--ckpt", str(folder))]
    code, _, err = kd("eval", *names, "--bench", bench, "--answer-engine", f"local:{tiny_teacher}")
    assert code == 2 and "is another model than other" in err and "Traceback" not in err
    assert store.runs() == []


def test_a_copy_of_the_model_answers_and_a_changed_template_does_not(
    paths: Paths, store: Store, tiny_teacher: Path, model_folder: Path, bench: str
) -> None:
    config = config_of(bench, tiny_teacher, answer_engine=f"local:{model_folder}")
    assert run(config, paths, store)["answers"] == 1
    assert "engine" not in store.answers(store.checkpoints()[0].id)[0].info
    (model_folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    config = config.model_copy(update={"max_new_tokens": 5})
    with pytest.raises(ConfigError, match="has the weights of tiny-teacher, but another tokenizer"):
        run(config, paths, store)


def test_failed_answers_of_other_checkpoints_stay_failed(
    paths: Paths, store: Store, tmp_path: Path, other: Path, write_jsonl: WriteRows
) -> None:
    """One prompt is too long for the other model, and short enough for the engine's."""
    roomy = tmp_path / "roomy"
    make_llama(roomy, seed=1, max_position_embeddings=4096)
    rows = [{"prompt": "p", "reference": "r"}, {"prompt": LONG, "reference": "r"}]
    bench = str(write_jsonl("two.jsonl", rows))
    assert run(config_of(bench, other), paths, store)["failed_answers"] == 1
    before = texts(store)["other"]
    config = config_of(bench, roomy, other, answer_engine=f"local:{roomy}")
    check_request(config, paths)
    planned = {
        row["checkpoint"]: row["answers"]
        for row in dry_run.plan(config, paths, store, pipeline.load_benches(config, paths))
    }
    assert planned == {"roomy": 2, "other": 0}
    for answers in (2, 0):
        assert run(config, paths, store)["answers"] == answers
    assert texts(store)["other"] == before and all(texts(store)["roomy"])


def test_failed_answers_are_retried_by_the_server_that_gave_them(
    paths: Paths, store: Store, tiny_teacher: Path, other: Path, bench: str
) -> None:
    """Those of a checkpoint that is evaluated alone are retried, whichever engine gave them."""
    with Loopback(answer=lambda _: completion("fine")) as server:
        config = config_of(bench, other, answer_engine=server.spec)
        run(config_of(bench, tiny_teacher), paths, store)
        run(config, paths, store)
        store.db.execute("UPDATE answers SET finish = 'error', text = ''")
        store.db.conn.commit()
        both = config_of(bench, tiny_teacher, other, answer_engine=server.spec)
        assert run(both, paths, store)["answers"] == 1
        assert texts(store) == {"tiny-teacher": [""], "other": ["fine"]}
        alone = config_of(bench, tiny_teacher, answer_engine=server.spec)
        assert run(alone, paths, store)["answers"] == 1


def test_a_server_answers_for_one_checkpoint_of_a_run(
    paths: Paths, store: Store, tiny_teacher: Path, other: Path, bench: str
) -> None:
    with Loopback(answer=lambda _: completion("fine")) as server:
        config = config_of(bench, tiny_teacher, other, answer_engine=server.spec)
        for _ in range(2):
            with pytest.raises(ConfigError, match="answers of tiny-teacher and other are missing"):
                run(config, paths, store)
        with pytest.raises(ConfigError, match="serves one model"):
            check_request(config, paths)
        assert server.calls == 0
        # What needs no answer counts for nothing: the other one was answered in this process.
        run(config_of(bench, other), paths, store)
        assert run(config, paths, store)["answers"] == 1
    assert texts(store)["tiny-teacher"] == ["fine"] != texts(store)["other"]


def test_a_baseline_is_a_checkpoint_too(
    paths: Paths, store: Store, tiny_teacher: Path, other: Path, write_jsonl: WriteRows
) -> None:
    pair = str(write_jsonl("pair.jsonl", [{"prompt": "p", "metric": "pair"}]))
    config = config_of(pair, tiny_teacher, baseline=str(other))
    config = config.model_copy(update={"answer_engine": f"local:{tiny_teacher}"})
    with pytest.raises(ConfigError, match="is another model than other"):
        run(config, paths, store)
    with pytest.raises(ConfigError, match="is another model than other"):
        check_request(config, paths)


def test_a_server_whose_model_may_have_been_exchanged_is_named(
    paths: Paths, store: Store, tiny_teacher: Path, other: Path, bench: str
) -> None:
    """The provenance is stored with each answer, and the scores are flagged."""
    listener = Listener()
    with Loopback(answer=lambda _: completion("fine")) as server:
        for model in (tiny_teacher, other):
            config = config_of(bench, model, answer_engine=server.spec)
            assert pipeline.run(config, paths, store, listener)["answers"] == 1
        spec = server.spec
    warnings = [text for kind, text in listener.said if kind == "warning"]
    assert warnings == [f"{spec} has answered for tiny-teacher before: it must serve other now"]
    answers = [answer for c in store.checkpoints() for answer in store.answers(c.id)]
    assert [answer.info for answer in answers] == [{"engine": spec}] * 2
    flags = [score.flags for score in leaderboard(store, paths)]
    assert flags and all("answered-by:openai" in each for each in flags)


def test_a_model_in_this_process_is_not_flagged(
    paths: Paths, store: Store, tiny_teacher: Path, bench: str
) -> None:
    for engine in ("local", f"local:{tiny_teacher}"):
        config = config_of(bench, tiny_teacher, answer_engine=engine)
        assert run(config, paths, store)["answers"] == 1
        store.db.execute("DELETE FROM answers")
        store.db.conn.commit()
    scores = leaderboard(store, paths)
    assert scores and not any(f.startswith("answered-by") for s in scores for f in s.flags)


def test_an_engine_that_has_nothing_to_answer_is_not_needed(
    paths: Paths, store: Store, tiny_teacher: Path, other: Path, bench: str, tmp_path: Path
) -> None:
    run(config_of(bench, tiny_teacher, other), paths, store)
    copy = shutil.copytree(other, tmp_path / "copy")
    listener = Listener()
    config = config_of(bench, tiny_teacher, copy, answer_engine=f"vllm:{other}")
    check_request(config, paths)
    assert pipeline.run(config, paths, store, listener)["answers"] == 0
    assert ("note", f"vllm:{other} is not used: no answers are missing") in listener.said
    answers = [answer for c in store.checkpoints() for answer in store.answers(c.id)]
    assert all(answer.finish is not Finish.ERROR for answer in answers)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("VLLM", "did you mean 'vllm'"),
        ("vllm:", "did you mean 'vllm'"),
        ("Local", "did you mean 'local'"),
        ("gpt-4", "'gpt-4' is not a valid answering engine[^$]*use vllm, openai:MODEL"),
    ],
)
def test_a_misspelt_engine_is_refused_with_what_was_meant(engine: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EvalConfig(checkpoints=["x"], answer_engine=engine)
    assert EvalConfig(checkpoints=["x"], answer_engine=" vllm ").answer_engine == "vllm"


def test_hub_models_are_not_looked_up_where_a_run_is_prepared(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, bench: str
) -> None:
    def refuse(*_: object) -> str:
        raise AssertionError("asked the hub")

    monkeypatch.setattr("kdharness.harness.models.resolve.pinned", refuse)
    for engine in ("vllm", "vllm:org/none", "local:org/none", "openai:m@http://127.0.0.1:9/v1"):
        config = EvalConfig(
            checkpoints=["org/none"],
            benches=[bench],
            baseline="org/other",
            answer_engine=engine,
            judge=["local:org/judge"],
        )
        check_request(config, paths, hub=False)
