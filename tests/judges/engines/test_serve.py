"""End to end against `transformers serve`: a real server, a real process, a real small model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig, parse_spec
from kdharness.harness.errors import JudgeError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.models.resolve import resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.store import Store
from kdharness.judges.engines.openai import OpenAIEngine
from support.benchmark_files import write_assets
from support.evaluations import imported
from support.locations import ROOT
from support.pulled_assets import pull_or_skip

pytestmark = [pytest.mark.slow, pytest.mark.model]
MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of SmolLM2, from a local home or pulled."""
    for home in (os.environ.get("KDHARNESS_TEST_HOME"), ROOT / ".smoke", ROOT / ".demo"):
        if home and (Path(home) / "models" / MODEL / "config.json").exists():
            return str(Path(home) / "models" / MODEL)
    paths = Paths(tmp_path_factory.mktemp("smol"))
    pull_or_skip(paths, MODEL)
    return resolve_model(MODEL, paths)


@pytest.fixture(scope="module")
def url(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server process; yield its base URL."""
    pytest.importorskip("fastapi", reason="transformers serve needs fastapi and uvicorn")
    pytest.importorskip("uvicorn", reason="transformers serve needs fastapi and uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [
        str(Path(sys.executable).with_name("transformers")),
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    with log.open("w") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(20)


def test_probe_of_transformers_serve(url: str, model: str) -> None:
    """The server lists no models and ignores `logprobs`; neither is an error."""
    judge = OpenAIEngine(model, url, first_wait=0.01)
    probe = judge.probe(logprobs=True)
    assert probe.reachable and not probe.logprobs and "log-probabilities" in probe.note


def test_evaluation_with_a_judge_on_transformers_serve(url: str, model: str, paths: Paths) -> None:
    write_assets(paths.home / "assets")
    spec = f"openai:{model}@{url}"
    assert parse_spec(spec).model == model
    with Store(paths.store) as store:
        imported(store, "a")
        config = EvalConfig(
            imported=["a"],
            benches=["mt-bench"],
            judge=[spec],
            limit=2,
            judge_max_tokens=24,
            concurrency=4,
        )
        done = pipeline.run(config, paths, store, NullReporter())
        rows = store.judgments("id-a")
        # A model this small seldom gives a verdict; its raw reply is stored anyway.
        assert done["judgments"] == len(rows) == 4
        assert all(row.raw and row.prompt_tokens > 0 and row.tokens > 0 for row in rows)
        assert all(row.value is None or 1 <= row.value <= 10 for row in rows)

        weighted = config.model_copy(update={"benches": ["alpaca-eval-2"]})
        with pytest.raises(JudgeError, match="log-probabilities"):
            pipeline.run(weighted, paths, store, NullReporter())
        discrete = weighted.model_copy(update={"discrete_fallback": True, "judge_max_tokens": 2})
        pipeline.run(discrete, paths, store, NullReporter())
        scores = [s for s in leaderboard(store, paths) if s.bench == "alpaca-eval-2"]
    assert scores and all("discrete" in s.flags for s in scores)
    assert scores[0].n + scores[0].n_failed == 2


def test_answers_from_transformers_serve_match_the_local_engine(
    url: str, model: str, paths: Paths
) -> None:
    """Greedy answers from the server match those of the in-process model."""
    with Store(paths.store) as store:
        config = EvalConfig(
            checkpoints=[model],
            benches=["shop"],
            limit=3,
            max_new_tokens=12,
            answer_engine=f"openai:{model}@{url}",
        )
        pipeline.run(config, paths, store, NullReporter())
        checkpoint = store.checkpoints()[0].id
        served = {a.item: a.text for a in store.answers(checkpoint)}
        store.db.execute("DELETE FROM answers")
        store.db.conn.commit()
        pipeline.run(
            config.model_copy(update={"answer_engine": None}), paths, store, NullReporter()
        )
        local = {a.item: a.text for a in store.answers(checkpoint)}
    assert len(served) == 3
    assert served == local, json.dumps([served, local], indent=1)
