"""Parsing replies into verdicts, and the pitfalls of the benchmarks' published parsers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.types import JudgmentStatus
from kdharness.judges.scoring import verdicts
from kdharness.judges.scoring.verdicts import cut_thinking, is_unfinished, read_rating, read_winner


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Rating: [[7]]", 7.0),
        ("I'd say [[8.5]].", 8.5),
        ("Rating: [6]", 6.0),
        ("[[10/10]]", 10.0),
        ("[[ 9 ]]", 9.0),
        ("[[08]]", 8.0),
        ("The score is [4].", 4.0),
        ("7", 7.0),
        ("[7]", 7.0),
        ("Good.\nRating: 5/10", 5.0),
        ("<think>maybe [[2]]?</think> Rating: [[9]]", 9.0),
        ("It may be [[3]] but </think>\nRating: [[6]]", 6.0),
        ("<|channel|>analysis<|message|>[[1]]<|channel|>final<|message|>[[8]]", 8.0),
        ("First [[6]], on reflection [[7]]", 7.0),
    ],
)
def test_ratings_are_parsed(reply: str, value: float) -> None:
    assert read_rating(reply).value == value


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "no verdict",
        "[[85]]",
        "[[0]]",
        "As [1] shows, this is right.",
        "See [1] and [2].",
        "<think>I think [[9]]",
        "[[-3]]",
        "Rating: [[seven]]",
        "[[11]]",
        "array[3] = 5",
    ],
)
def test_replies_without_a_rating_are_unreadable(reply: str) -> None:
    verdict = read_rating(reply)
    assert verdict.status is JudgmentStatus.UNREADABLE and verdict.value is None


def test_published_rating_parser_keeps_its_quirks() -> None:
    assert read_rating("[[85]]", published=True).value == 85
    assert read_rating("As [1] shows", published=True).value == 1
    assert read_rating("[[10/10]]", published=True).value is None


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("The scale goes from [[1]] to [[10]]. It is right, and so it earns [[8]].", 8.0),
        ("from [[1]] to [[10]] … earns [[8]]", 8.0),
        ("You want it like this: [[5]]. Here it is: the code runs. [[9]]", 9.0),
        ("like this: [[5]] … [[9]]", 9.0),
        ("[[3]] … final [[9]]", 9.0),
        ("At first [[3]]. But the sum is right after all, as a check shows.\nRating: [[9]]", 9.0),
        ("[[3]] no, [[9]]", 9.0),
        ("[[3]] -> [[9]]", 9.0),
        ("Correctness: [[8]]\nStyle: [[5]]\nOverall: [[7]]", 7.0),
        ("Initial rating: [[3]]\nRevised rating: [[9]]", 9.0),
        ("Relevance: 8/10\nDepth: 6/10\nRating: 7/10", 7.0),
        ("[[Rating]] [[8]]", 8.0),
        ("**Rating: [[8]]**", 8.0),
        ("[[ **8** ]]", 8.0),
        ("[[8]] out of [[10]]", 8.0),
        ("[[8]]/10", 8.0),
        ("\\[[8]]", 8.0),
        ("\\[\\[8\\]\\]", 8.0),
        ("【【8】】", 8.0),
        ("Rating: [[7]]. I repeat: [[7]]", 7.0),
    ],
)
def test_last_of_several_ratings_counts(reply: str, value: float) -> None:
    assert read_rating(reply).value == value


@pytest.mark.parametrize(
    "reply",
    [
        "First turn: [[9]]. Second turn: [[4]].",
        "Turn 1 gets [[9]] and turn 2 gets [[4]].",
        "The first answer is [[6]], the second [[9]].",
        "Assistant A: [[7]], Assistant B: [[5]]",
        "Rating for turn 1: [[9]]\nRating for turn 2: [[4]]",
        "Rating for turn 1: [9]. Rating for turn 2: [4].",
        "Accuracy: [[8]]\nClarity: [[6]]",
        "| Accuracy | [[8]] |\n| Clarity | [[6]] |",
        "Correctness [[8]], style [[5]]",
        "Clarity deserves [[8]], style deserves [[5]]",
        "第一轮：[[9]]，第二轮：[[4]]",
        "[[8]] [[6]]",
        "[[8]]\n\n[[6]]",
        "between [[6]] and [[7]]",
        "[[6]] or [[7]]",
        "Rating: [[5]], or rather [[7-8]]",
        "[[7-8]]",
        "[[7,5]]",
        "[[eight]]",
        "[[4]]/5",
        "[[4]] out of 5",
        "[[4/5]]",
        'Reply like this: "Rating: [[5]]"',
        "The scale goes from [[1]] to [[10]].",
    ],
)
def test_several_separate_ratings_are_unreadable(reply: str) -> None:
    verdict = read_rating(reply)
    assert verdict.status is JudgmentStatus.UNREADABLE and verdict.value is None


def test_published_rating_parser_takes_the_first() -> None:
    assert read_rating("from [[1]] to [[10]], it earns [[8]]", published=True).value == 1
    assert read_rating("First turn: [[9]]. Second turn: [[4]].", published=True).value == 9
    assert read_rating("<think>[[2]]", published=True).value == 2


@given(
    st.floats(1, 10).map(lambda x: round(x, 1)),
    st.integers(1, 10),
    st.sampled_from(
        [
            "At first I thought [[{}]], yet the sum is right and the tone is kind.\n\n"
            "Rating: [[{}]]",
            "Others may say [[{}]] here. Having read it all again with care, my rating is [[{}]].",
        ]
    ),
)
def test_final_rating_wins_over_earlier_ones(value: float, other: int, form: str) -> None:
    assert read_rating(form.format(other, value)).value == value


REASONING_TAGS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<THOUGHT>", "</THOUGHT>"),
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<seed:think>", "</seed:think>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<inner_monologue>", "</inner_monologue>"),
    ("[THINK]", "[/THINK]"),
    ("[think]", "[/think]"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>commentary<|message|>", "<|channel|>final <|constrain|>json<|message|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|thinking_start|>", "<|thinking_end|>"),
    ("Here is my thought process:", "Here is my response:"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
    ("analysisWe", "assistantfinal"),
    ("<|im_start|>think\n", "<|im_start|>answer\n"),
]
NEEDS_BEGIN_TAG = (
    "<reflection",
    "<scratch",
    "<inner",
    "Here is",
    "Here are",
    "analysis",
    "<|im_start",
)
END_TAG_SUFFICES = [marks for marks in REASONING_TAGS if not marks[0].startswith(NEEDS_BEGIN_TAG)]


@pytest.mark.parametrize(("begin", "end"), REASONING_TAGS)
def test_reasoning_tags_of_every_model_family_are_removed(begin: str, end: str) -> None:
    whole = f"{begin}It may be [[2]], or\n\n[[3]].{end}\nGood.\nRating: [[9]]"
    assert verdicts.cut_thinking(whole) == "Good.\nRating: [[9]]"
    assert not verdicts.is_unfinished(whole) and read_rating(whole).value == 9
    unclosed = f"{begin}It may be [[2]], or"
    assert verdicts.cut_thinking(unclosed) == "" and verdicts.is_unfinished(unclosed)
    assert read_rating(unclosed).value is None
    assert read_winner(f"{begin}[[A]]{end}[[B]]").value == 0.0
    assert read_winner(f"{begin}[[A]]").value is None
    assert verdicts.read_token(f"{begin}m{end}M").value == 2.0
    assert verdicts.read_ranking(f"{begin}[{{'model': 'model_1', 'rank': 1}}]").value is None


@pytest.mark.parametrize("end", sorted({end for _, end in END_TAG_SUFFICES}))
def test_reasoning_with_only_an_end_tag_is_removed(end: str) -> None:
    assert read_rating(f"It may be [[2]].{end}Rating: [[9]]").value == 9


@pytest.mark.parametrize(
    ("text", "remaining"),
    [
        ("<think>a <think>b</think>[[2]]</think>[[9]]", "[[9]]"),
        ("<thinking>a<reflection>[[1]]</reflection>b</thinking><output>[[9]]</output>", "[[9]]"),
        ("<think>a</think><answer>Paris</answer>", "Paris"),
        (
            "<|begin_of_thought|>a<|end_of_thought|>\n\n<|begin_of_solution|>Paris<|end_of_solution|>",
            "Paris",
        ),
        ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>Paris<|END_RESPONSE|>", "Paris"),
        ("<think>\n\n</think>\n\nParis", "Paris"),
        ("Rating: [[7]] <think>was that fair?</think>", "Rating: [[7]]"),
        ("The tag `<think>` leaks into it. [[4]]", "The tag `<think>` leaks into it. [[4]]"),
        ("<answer>Paris</answer>", "<answer>Paris</answer>"),
        ("I see <reason>late</reason> there", "I see <reason>late</reason> there"),
        ("analysis of the poem", "analysis of the poem"),
        ("Paris", "Paris"),
        ("", ""),
    ],
)
def test_cut_thinking_keeps_text_outside_reasoning(text: str, remaining: str) -> None:
    assert verdicts.cut_thinking(text) == remaining


@given(
    st.text(alphabet="ab \n", max_size=20),
    st.text(alphabet="xyz", min_size=1, max_size=20),
    st.sampled_from(REASONING_TAGS),
)
def test_cut_thinking_returns_the_answer(thought: str, answer: str, tags: tuple[str, str]) -> None:
    text = f"{tags[0]}{thought}{tags[1]}{answer}"
    assert verdicts.cut_thinking(text) == answer
    assert verdicts.cut_thinking(answer) == answer


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("[[A]]", 1.0),
        ("so: [[B]]", 0.0),
        ("[[C]]", 0.5),
        ("nothing", None),
        ("If A were shorter, [[A]]; but as it is: [[B]]", 0.0),
        ("<think>[[A]]</think>[[C]]", 0.5),
    ],
)
def test_winners_are_parsed(reply: str, value: float | None) -> None:
    assert read_winner(reply).value == value


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("[[A]] … no, [[B]]", 0.0),
        ("First turn: [[A]]. Second turn: [[B]].", None),
        ("[[A]] or [[B]]", None),
        ("[[A/B]]", None),
        ("[[A]][[B]]", None),
        ("[[A]]\n\n[[B]]", None),
        ('"[[A]]" if assistant A is better, "[[B]]" if B is better, and "[[C]]" for a tie.', None),
        ('"[[A]]" if assistant A is better, "[[B]]" if B is better, "[[C]]" for a tie: [[A]]', 1.0),
        ("Correctness: [[A]]\nStyle: [[B]]\nOverall: [[A]]", 1.0),
        ("I choose [[A]] for its clarity", 1.0),
        ("[[A]] if you ask me", 1.0),
        ("I leaned to [[A]], then saw the mistake, and my verdict is [[B]].", 0.0),
    ],
)
def test_last_of_several_winners_counts(reply: str, value: float | None) -> None:
    assert read_winner(reply).value == value


def test_published_winner_parser_checks_a_before_b() -> None:
    assert read_winner("[[B]] no, [[A]]", published=True).value == 1.0


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]", 1.0),
        ("```python\n[{'model': 'model_2', 'rank': 1}, {'model': 'model_1', 'rank': 2}]\n```", 2.0),
        ("[{'model': 'model_1', 'rank': 3}]", None),
        ("__import__('os')", None),
        ("", None),
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_1', 'rank': 2}]", None),
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 1}]", None),
        ("[{'model': 'model_1', 'rank': True}]", None),
        ("[{'model': 'm'}]", None),
        ("{" * 5000, None),
        ("[1, 2]", None),
    ],
)
def test_rankings_are_parsed(reply: str, value: float | None) -> None:
    assert verdicts.read_ranking(reply).value == value


def test_first_token_logprobs_give_a_preference() -> None:
    half = math.log(0.5)
    assert verdicts.read_first_token([("m", half), ("M", half)]).value == pytest.approx(1.5)
    assert verdicts.read_first_token([("m", -0.1), ("The", -3)]).value == 1.0
    assert verdicts.read_first_token([("M", -9.0)]).value == 2.0
    assert verdicts.read_first_token([(" m", -0.1), ("Mm", -1)]).value is None
    assert verdicts.read_first_token(None).value is None
    assert verdicts.read_first_token([("m", -1000.0), ("M", -1001.0)]).value == pytest.approx(
        2 - 1 / (1 + math.exp(-1))
    )


def test_low_probability_of_the_choice_tokens_is_unreadable() -> None:
    thinking = [("<think>", math.log(0.99)), ("m", -9.0), ("M", -9.7)]
    verdict = verdicts.read_first_token(thinking)
    assert verdict.status is JudgmentStatus.UNREADABLE
    assert "'<think>'" in verdict.info["why"] and "0.018 %" in verdict.info["why"]
    upstream = verdicts.read_first_token(thinking, published=True)
    assert upstream.value == pytest.approx(1.332, abs=1e-3)
    for share, read in ((0.049, False), (0.051, True), (0.5, True)):
        top = [("The", math.log(1 - share)), ("m", math.log(share))]
        assert (verdicts.read_first_token(top).value is not None) is read
    # If either token is the most likely, its absolute probability does not matter.
    assert verdicts.read_first_token([("m", -50.0), ("M", -60.0), ("x", -70.0)]).value is not None


def test_discrete_tokens_are_parsed() -> None:
    assert verdicts.read_token(" m ").value == 1.0
    assert verdicts.read_token('"M"').value == 2.0
    assert verdicts.read_token("<think>m</think>M").value == 2.0
    assert verdicts.read_token("maybe").value is None


@given(st.floats(1, 2))
def test_unswitch_twice_is_the_identity(value: float) -> None:
    verdict = verdicts.Verdict(JudgmentStatus.OK, value)
    twice = verdicts.unswitch(verdicts.unswitch(verdict, True), True)
    assert twice.value == pytest.approx(value)
    assert verdicts.unswitch(verdict, False) is verdict


@given(st.text())
def test_verdict_parsers_accept_any_text(text: str) -> None:
    for parse in (read_rating, read_winner, verdicts.read_ranking, verdicts.read_token):
        assert parse(text).status in JudgmentStatus
    assert isinstance(verdicts.cut_thinking(text), str)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        # From public reports: the judge quotes an answer that rates itself.
        ('Rating: [[2]]. The assistant wrote "Rating: [[10]]" in its answer.', 2),
        ("Rating: [[2]]\nIt ends with “[[10]]”, which is ignored.", 2),
        ('The answer says "[[10]]". Rating: [[2]]', 2),
        ("It claims `Final self-rating: [[9]]`.\n\nRating: [[3]]", 3),
        ('My rating: "[[8]]"', 8),
        ("Rating: `[[8]]`", 8),
        ('{"rating": "[[8]]"}', 8),
        # A label inside the brackets.
        ("[[rating: 8]]", 8),
        ("[[Rating: 8/10]]", 8),
        ("Rating: [[score=8]]", 8),
        ("[[rating: high]]", None),
        ("Rating: 8 out of 10", 8),
    ],
)
def test_quoted_and_labelled_ratings(reply: str, value: float | None) -> None:
    assert read_rating(reply).value == value


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("[[Assistant A]]", 1.0),
        ("[[model B]]", 0.0),
        ("[[Assistant D]]", None),
        ('B wrote "My verdict: [[B]]" into its answer. [[A]]', 1.0),
        ('[[A]]. B wrote "My verdict: [[B]]" into its answer.', 1.0),
    ],
)
def test_quoted_and_labelled_winners(reply: str, value: float | None) -> None:
    assert read_winner(reply).value == value


@pytest.mark.parametrize(
    "text",
    [
        "analysis We need [[2]].assistantfinal[[9]]",
        "assistantanalysisWe need [[2]].assistantfinal[[9]]",
        "<|inner_prefix|>[[2]]<|inner_suffix|>[[9]]",
        "Thinking...\n[[2]]\n...done thinking.\n\n[[9]]",
        "<think>[[2]]</ think>[[9]]",
        "< think >[[2]]< / think >[[9]]",
        "<x|think>[[2]]</x|think>[[9]]",
    ],
)
def test_unusual_reasoning_tags_are_removed(text: str) -> None:
    assert cut_thinking(text) == "[[9]]" and not is_unfinished(text)
