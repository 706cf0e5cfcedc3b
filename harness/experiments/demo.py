"""The whole story on one machine, small and real.

SmolLM2-135M-Instruct is the teacher. A student is cut from it, then trained twice on the same
general rows at equal tokens: by SFT and by KD. From the KD student, SFT on the shop domain gives
the domain expert (which doubles as the comparison), and DAE follows that expert on shop rows and
the frozen KD student on general rows. All of them are scored, the teacher included.

Each part is a run in the store, so a demo that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdharness.harness import assets
from kdharness.harness.config.files import parse_config
from kdharness.harness.config.training import AnyConfig, config_hash
from kdharness.harness.errors import RunError
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch
from kdharness.harness.runs.status import effective_status
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus

TEACHER = "smollm2-135m-instruct"
BENCH_ASSETS = ("mt-bench", "alpaca-eval", "alpaca-eval-judges")
Say = Callable[[str], None]
Follow = Callable[[Paths, str], Run]
"""Waits until the run of a home has finished, and returns it; raises what it failed with."""


@dataclass(frozen=True)
class Scale:
    """How much of everything: trained tokens, layers kept, items scored."""

    keep_layers: int = 24
    general_tokens: int = 9_000
    domain_tokens: int = 18_000
    dae_tokens: int = 26_000
    judged_items: int = 2
    answer_tokens: int = 64
    judge_tokens: int = 64
    exact_items: int | None = None
    domain_share: float = 0.6


FULL = Scale()
SMOKE = Scale(
    keep_layers=4,
    general_tokens=600,
    domain_tokens=400,
    dae_tokens=600,
    judged_items=1,
    answer_tokens=8,
    judge_tokens=8,
    exact_items=8,
)


@dataclass(frozen=True)
class DemoStep:
    """One run of the story."""

    name: str
    title: str
    config: AnyConfig


def _trainer(tokens: int, rate: float, **more: Any) -> dict[str, Any]:
    return {
        "learning_rate": rate,
        "max_tokens": tokens,
        "batch_size": 4,
        "weight_decay": 0.0,
        **more,
    }


def story(scale: Scale, judge: str | None) -> list[DemoStep]:
    """The runs in order, each a plain config."""
    heldout = [
        {"path": "general:validation", "kind": "general", "limit": 8},
        {"path": "shop:validation", "kind": "domain", "limit": 16},
    ]
    student = {"from": TEACHER, "keep_layers": scale.keep_layers}
    general = {"train": "general:train", "heldout": heldout, "max_length": 192}
    shop = {
        "train": [{"path": "shop:train", "kind": "domain"}],
        "heldout": heldout,
        "max_length": 192,
    }
    mixed = {
        "train": [{"path": "general:train"}, {"path": "shop:train", "kind": "domain"}],
        "heldout": heldout,
        "max_length": 192,
        "domain_share": scale.domain_share,
    }
    raw: list[tuple[str, str, dict[str, Any]]] = [
        (
            "sft",
            "SFT of a cut student on general answers",
            {
                "method": "sft",
                "student": student,
                "data": general,
                "trainer": _trainer(scale.general_tokens, 5e-4),
            },
        ),
        (
            "kd",
            "KD of the same student on the same rows: the teacher's distributions and attention",
            {
                "method": "kd",
                "student": {**student, "from": "teacher"},
                "teacher": TEACHER,
                "data": general,
                "trainer": _trainer(scale.general_tokens, 5e-4),
            },
        ),
        (
            "expert",
            "the domain expert: SFT of the KD student on the shop",
            {
                "method": "sft",
                "student": "kd",
                "data": shop,
                "trainer": _trainer(scale.domain_tokens, 3e-4),
            },
        ),
        (
            "dae",
            "DAE of the KD student: shop rows follow the expert, general rows the KD student",
            {
                "method": "dae",
                "student": "kd",
                "reference": "kd",
                "expert": "expert",
                "data": mixed,
                "trainer": _trainer(scale.dae_tokens, 3e-4),
            },
        ),
        (
            "scores",
            "shop metrics and held-out losses of every checkpoint",
            _scores(scale, ["shop", "heldout"]),
        ),
        (
            "verdicts",
            "MT-Bench and AlpacaEval on a small fixed subset",
            {
                **_scores(scale, ["mt-bench", "alpaca-eval"]),
                "judge": [judge or f"local:{TEACHER}"],
                "limit": scale.judged_items,
                "max_new_tokens": scale.answer_tokens,
                "judge_max_tokens": scale.judge_tokens if judge is None else None,
            },
        ),
    ]
    return [
        DemoStep(name, title, parse_config(values, where=f"demo step {name}"))
        for name, title, values in raw
    ]


def _scores(scale: Scale, benches: list[str]) -> dict[str, Any]:
    return {
        "method": "eval",
        "checkpoints": [TEACHER, "sft", "kd", "expert", "dae"],
        "benches": benches,
        "limit": scale.exact_items,
        "heldout": {"teacher": TEACHER, "max_length": 192},
        "batch_size": 24,
    }


def run_demo(paths: Paths, *, smoke: bool, judge: str | None, say: Say, follow: Follow) -> None:
    """Pull what is needed, run every step that is not finished yet.

    Raises:
        Interrupted: stopped by the user; the next call goes on from here.
        AssetError, RunError: a step that failed, with its reason.
    """
    for name in (TEACHER, *BENCH_ASSETS):
        say(f"asset {name}")
        assets.pull(paths, name, say=say)
    steps = story(SMOKE if smoke else FULL, judge)
    for number, step in enumerate(steps, 1):
        say(f"\n[{number}/{len(steps)}] {step.name}: {step.title}")
        run_step(paths, step, follow)


def run_step(paths: Paths, step: DemoStep, follow: Follow) -> Run:
    """Start, join or resume one run, and wait until it is finished."""
    with Store(paths.store) as store:
        run = store.run(step.name)
    if run is not None and run.config_hash != config_hash(step.config):
        raise RunError(
            f"the run {step.name!r} in {paths.home} was made with other settings",
            hint="use another --home, or remove that folder to start anew",
        )
    status = effective_status(run) if run is not None else None
    if run is not None and status is RunStatus.FINISHED:
        return run
    if run is None:
        launch.start(paths, step.config, name=step.name)
    elif status is not None and (not status.is_live or status is RunStatus.PAUSED):
        launch.resume(paths, step.name)
    return follow(paths, step.name)
