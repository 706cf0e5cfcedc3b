"""Transcripts of the report and the app: an answer with its own judgments, and its score."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.analysis.judged_answers import current_judgments, judged_answers
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.reports.blocks import Transcript
from kdharness.harness.reports.transcripts import largest_differences
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Checkpoint, Finish, Judgment, JudgmentStatus
from kdharness.tui.viewmodels.transcripts import Exchange, read_transcript
from support.ifeval import BAD, GOOD, make, write_ifeval

NAMES = ("good", "bad")


def reported(store: Store, paths: Paths) -> dict[str, Transcript]:
    """Return the report's transcripts by title."""
    blocks = largest_differences(store, paths, NAMES, 9)
    return {block.title: block for block in blocks if isinstance(block, Transcript)}


def shown(store: Store, bench: str, item: str) -> Exchange:
    """Return an item as the app shows it."""
    transcript = read_transcript(store, bench, NAMES, {})
    return next(exchange for exchange in transcript.exchanges if exchange.item == item)


# ---------------------------------------------------------------- IFEval


@pytest.fixture
def home(paths: Paths, store: Store, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Return a home with IFEval's answers of two models."""
    write_ifeval(paths.assets, monkeypatch)
    for name, texts in (("good", GOOD), ("bad", BAD)):
        store.add_checkpoint(Checkpoint(id=name, name=name, method="import", path="", created=1.0))
        store.add_answers(make(texts, of=name))
    return paths


def evaluate(home: Paths, store: Store, **settings: Any) -> None:
    config = EvalConfig(imported=list(NAMES), benches=["ifeval"], **settings)
    pipeline.run(config, home, store, NullReporter())


@pytest.mark.parametrize("limits", [(None,), (2, None), (None, 2), (2, 3, None)])
def test_each_failed_check_is_printed_once(
    home: Paths, store: Store, limits: tuple[int | None, ...]
) -> None:
    for limit in limits:
        evaluate(home, store, limit=limit)
    blocks = reported(store, home)
    assert set(blocks) == {f"ifeval, {item}" for item in GOOD}
    assert [side[2] for side in blocks["ifeval, 7"].sides] == [
        "scored 1",
        "scored 0; punctuation:no_comma: no comma; found: 1 comma; "
        "length_constraints:number_words: at least 3 words; found: 2 words",
    ]
    assert len(shown(store, "ifeval", "7").second.judgments) == 2 * 2 + 2


def test_the_score_of_an_answer_is_the_headline_metric(home: Paths, store: Store) -> None:
    """Followed only without its first line: the mean of the strict and loose reading is 0.5."""
    evaluate(home, store)
    said = reported(store, home)["ifeval, 8"].sides[1][2]
    assert said.startswith("scored 0; startend:quotation")
    exchange = shown(store, "ifeval", "8")
    assert (exchange.first.value, exchange.second.value, exchange.second.mean) == (1, 0, 0.5)


def test_equal_headlines_with_other_verdicts_still_differ(home: Paths, store: Store) -> None:
    (only,) = make({"7": "apples and pears, figs"}, of="good")
    store.add_answers([replace(only, id="good/later", created=2.0)])
    evaluate(home, store)
    exchange = shown(store, "ifeval", "7")
    assert exchange.first.value == exchange.second.value == 0 and exchange.differs


# ---------------------------------------------------------------- any benchmark


def answer(of: str, key: str, turn: int = 1, created: float = 1.0, settings: str = "") -> Answer:
    return Answer(
        f"{of}/{key}", of, "own", "", "1", turn, f"{of}: {key}", Finish.STOP, "", settings, created
    )


def judged(of: str, key: str | None, revision: str, value: float = 0.0, **rest: Any) -> Judgment:
    fields: dict[str, Any] = {"judge": "exact", "metric": "m", "turn": 1, "created": 1.0, **rest}
    return Judgment(
        id=f"{of}/{key}/{revision}/{'/'.join(map(str, fields.values()))}",
        checkpoint=of,
        bench="own",
        revision=revision,
        item="1",
        category="",
        status=JudgmentStatus.OK,
        value=value,
        answer=None if key is None else f"{of}/{key}",
        raw=f"failed in {revision}",
        **fields,
    )


def note(store: Store, revision: str, used: float, *flags: str) -> None:
    store.set_bench_note("own", revision, {"scorer": "file", "used": used, "flags": list(flags)})


@pytest.fixture
def twice(store: Store) -> Store:
    """Return a store in which both models answered an item with two settings."""
    for name in NAMES:
        store.add_checkpoint(Checkpoint(id=name, name=name, method="import", path="", created=1.0))
        store.add_answers([answer(name, "old"), answer(name, "new", created=2.0)])
        value = float(name == "good")
        store.add_judgments(
            [judged(name, "old", "a", value), judged(name, "new", "b", value, created=2.0)]
        )
    return store


@pytest.mark.parametrize(
    ("used", "flags", "key", "revision"),
    [
        ((1.0, 2.0), ((), ()), "new", "b"),
        ((2.0, 1.0), ((), ()), "old", "a"),
        # A whole benchmark is shown rather than a later trial of a few items.
        ((1.0, 2.0), ((), ("subset:1",)), "old", "a"),
        ((2.0, 1.0), (("subset:1",), ("max_new_tokens:9",)), "new", "b"),
    ],
)
def test_an_answer_is_shown_with_the_judgments_of_it(
    twice: Store,
    paths: Paths,
    used: tuple[float, float],
    flags: tuple[tuple[str, ...], tuple[str, ...]],
    key: str,
    revision: str,
) -> None:
    for name, when, more in zip("ab", used, flags, strict=True):
        note(twice, name, when, *more)
    (block,) = reported(twice, paths).values()
    assert block.sides == (
        ("good", f"good: {key}", "scored 1"),
        ("bad", f"bad: {key}", f"scored 0; failed in {revision}"),
    )
    side = shown(twice, "own", "1").second
    assert [a.text for a in side.answers] == [f"bad: {key}"]
    assert [j.revision for j in side.judgments] == [revision]


def test_judges_of_the_same_answer_are_shown_beside_each_other(twice: Store) -> None:
    note(twice, "a", 1.0)
    note(twice, "b", 2.0)
    twice.add_judgments(
        [
            judged("bad", "new", "a", 5.0, judge="j1", metric="rating"),
            judged("bad", "old", "a", 7.0, judge="j2", metric="rating"),
        ]
    )
    side = shown(twice, "own", "1").second
    assert [(j.judge, j.answer) for j in side.judgments] == [
        ("exact", "bad/new"),
        ("j1", "bad/new"),
    ]


def test_a_rating_is_not_averaged_with_shares(twice: Store) -> None:
    twice.add_judgments([judged("bad", "new", "b", 7.0, judge="j", metric="rating")])
    note(twice, "b", 2.0)
    assert shown(twice, "own", "1").second.value == 7.0


def test_answers_imported_again_replace_the_earlier_ones(twice: Store, paths: Paths) -> None:
    """Both have judgments of the same revision."""
    note(twice, "b", 2.0)
    twice.add_answers([answer("bad", "newer", created=3.0)])
    twice.add_judgments([judged("bad", "newer", "b", created=3.0)])
    (block,) = reported(twice, paths).values()
    assert block.sides[1] == ("bad", "bad: newer", "scored 0; failed in b")


def test_a_turn_without_judgments_has_the_settings_of_those_with() -> None:
    answers = [
        answer("m", "cold 1", 1, 1.0, "cold"),
        answer("m", "cold 2", 2, 1.0, "cold"),
        answer("m", "warm 1", 1, 2.0, "warm"),
    ]
    kept, _ = judged_answers(answers, [judged("m", "cold 2", "a", turn=2)])
    assert [a.id for a in kept] == ["m/cold 1", "m/cold 2"]


keys = st.sampled_from(["a", "b", "c"])


@given(
    st.lists(st.tuples(keys, st.integers(1, 2)), unique=True),
    st.lists(
        st.tuples(
            st.one_of(st.none(), keys),
            st.sampled_from("rs"),
            st.sampled_from("jk"),
            st.floats(0, 9),
        ),
        unique=True,
    ),
)
def test_no_judgment_is_shown_under_another_answer(
    stored: list[tuple[str, int]], given_by: list[tuple[str | None, str, str, float]]
) -> None:
    answers = list({key: answer("m", key, turn) for key, turn in stored}.values())
    judgments = [
        judged("m", key, revision, judge=judge, created=created)
        for key, revision, judge, created in sorted(given_by, key=lambda entry: entry[3])
    ]
    notes = {("", "own", "r"): {"used": 1.0}}
    kept, current = judged_answers(answers, current_judgments(judgments, notes))
    assert [a.turn for a in kept] == sorted({a.turn for a in answers})
    others = {a.id for a in answers} - {a.id for a in kept}
    assert not others & {j.answer for j in current}
    assert len({(j.judge, j.turn) for j in current}) == len(current)
    assert len({(j.judge, j.revision) for j in current}) == len({j.judge for j in current})
