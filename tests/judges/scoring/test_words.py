"""Word splitting in every script: ROUGE-L and contamination in text without spaces."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.judges.audit.contamination import grams, overlaps, size
from kdharness.judges.scoring.exact_metrics import rouge_l
from kdharness.judges.scoring.words import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat, the CAT.", ["the", "cat", "the", "cat"]),
        ("don't", ["don", "t"]),
        ("don’t donʼt", ["don", "t", "don", "t"]),
        ("snake_case 3.5", ["snake_case", "3", "5"]),
        ("今天很好。", ["今", "天", "很", "好"]),
        ("GPT模型3", ["gpt", "模", "型", "3"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("ｶﾅ ＡＢＣ", ["カ", "ナ", "abc"]),
        ("हिन्दी में किताब", ["हिन्दी", "में", "किताब"]),
        ("বাংলা ভাষা", ["বাংলা", "ভাষা"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("บ้าน", ["บ้", "า", "น"]),
        ("བོད་སྐད", ["བོད", "སྐད"]),
        ("كِتَاب", ["كِتَاب"]),
        ("می‌روم", ["میروم"]),
        ("cafe\u0301", ["café"]),
        ("co\u00adop", ["coop"]),
        ("!?", []),
        ("👍🏽", []),
    ],
)
def test_words_of_every_script(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_decomposed_korean_is_normalised() -> None:
    assert words(unicodedata.normalize("NFD", "한국어")) == ["한국어"]


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("今天天气很好", "今天天气非常好", 10 / 13),
        ("今天天气非常好", "今天天气非常好", 1.0),
        ("東京は日本の都市です", "東京は日本の首都です", 18 / 20),
        ("สวัสดี", "สวัสดีครับ", 2 * 4 / (4 + 7)),
        ("पुस्तक", "किताब", 0.0),
        ("हिन्दी में पुस्तक", "हिन्दी में किताब", 2 / 3),
        ("ភាសា", "ភាសាខ្មែរ", 4 / 7),
        ("မြန်မာ", "ထိုင်း", 0.0),
        ("ລາວ", "ລາວ", 1.0),
        ("한국어 문장", "한국어 글", 0.5),
        ("!", "?", 0.0),
        ("👍", "👎", 0.0),
        ("👍", "👍", 1.0),
        ("+", "-", 0.0),
        ("", "+", 0.0),
        ("cafe\u0301", "café", 1.0),
    ],
)
def test_rouge_l_in_other_scripts(answer: str, reference: str, value: float) -> None:
    assert rouge_l(answer, [reference]) == pytest.approx(value)


@given(st.text())
def test_rouge_l_of_itself_is_1(text: str) -> None:
    assert rouge_l(text, [text]) == 1.0


ENGLISH = (
    "At what hours is the national library in Beijing open on weekends, and does one have "
    "to book ahead?"
)
CHINESE = "北京的国家图书馆周末几点开放，需要提前预约吗？"
LONG_CHINESE = (
    "请问北京的国家图书馆在周末的开放时间是什么时候，普通读者进馆之前需不需要在网上提前预约座位呢？"
)
THAI = "หอสมุดแห่งชาติในกรุงปักกิ่งเปิดกี่โมงในวันหยุดสุดสัปดาห์และต้องจองล่วงหน้าหรือไม่"
HINDI = "बीजिंग का राष्ट्रीय पुस्तकालय सप्ताहांत में किस समय खुलता है और क्या पहले से बुकिंग करनी होती है"


@pytest.mark.parametrize("prompt", [ENGLISH, CHINESE, LONG_CHINESE, THAI, HINDI])
def test_prompt_contained_in_the_data_is_detected(prompt: str) -> None:
    texts = ["Something else.", f"前言：{prompt}\n9-17", "Nothing."]
    assert overlaps({"one": prompt}, texts) == {"one": 1.0}


@pytest.mark.parametrize("prompt", [ENGLISH, CHINESE, LONG_CHINESE, THAI, HINDI])
def test_other_texts_of_the_same_language_are_not_flagged(prompt: str) -> None:
    others = [
        "Does one have to book ahead on weekends, and what are the hours?",
        "国家图书馆的开放时间是什么？周末需要提前预约吗？",
        "上海的图书馆周末几点开放？",
        "หอสมุดแห่งชาติเปิดกี่โมง ต้องจองล่วงหน้าหรือไม่",
        "राष्ट्रीय पुस्तकालय किस समय खुलता है",
    ]
    assert overlaps({"one": prompt}, others) == {}


def test_short_prompts_are_not_checked_for_contamination() -> None:
    assert overlaps({"a": "今天天气好吗", "b": "What is it?"}, ["今天天气好吗 What is it?"]) == {}
    assert size(words("今天天气非常好吗我们")) == 5 and size(words("one two three four five")) == 5


def test_gram_length_depends_on_the_script() -> None:
    latin_words = words("a b c d e f g h i j k l m n o")
    assert [len(gram) for gram in grams(latin_words)] == [13, 13, 13]
    assert {len(gram) for gram in grams(words(LONG_CHINESE))} == {26}
    assert {len(gram) for gram in grams(words("กขคงจฉชซฌญ" * 6))} == {52}


@given(
    st.lists(st.sampled_from(["word", "今", "ก", "한국", "7"]), max_size=80),
    st.lists(st.sampled_from(["word", "今", "ก"]), max_size=20),
)
def test_text_containing_a_prompt_overlaps_fully(prompt: list[str], surrounding: list[str]) -> None:
    prompt_text, text = " ".join(prompt), " ".join([*surrounding, *prompt, *surrounding])
    shares = overlaps({"p": prompt_text}, [text])
    assert shares == ({"p": 1.0} if size(words(prompt_text)) >= 5 else {})
