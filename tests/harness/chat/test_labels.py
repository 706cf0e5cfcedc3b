"""Labels of each template family, compared with expectations written by hand."""

from __future__ import annotations

import copy
import json
from importlib import resources
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.chat.template import CHATML as OUR_CHATML
from kdharness.harness.chat.template import IGNORE_INDEX, encode_chat, encode_prompt
from kdharness.harness.errors import DataError
from support.chat_templates import FAMILIES
from support.labels import (
    ANSWERS,
    AROUND,
    MARKED,
    TEXTS,
    answer,
    expected,
    labelled,
    marked_tokenizer,
    runs,
    system,
    user,
)

# ---------------------------------------------------------------- every family


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_and_their_end_tokens_are_labelled(family: str, families: dict[str, Any]) -> None:
    """Here the user turns contain the answers word for word."""
    chat = [
        user("Copy this line:\nThe cat sat."),
        answer("The cat sat."),
        user("The cat sat. Another:\nIt rains."),
        answer("It rains."),
        user("Choose: A or B"),
        answer("B"),
    ]
    labelled_text = labelled(families[family], chat)
    assert labelled_text == expected(family, ["The cat sat.", "It rains.", "B"])


@pytest.mark.parametrize("family", FAMILIES)
def test_turns_with_train_false_have_no_labels(family: str, families: dict[str, Any]) -> None:
    chat = [user("Yes"), answer("Yes", train=False), user("Yes"), answer("Yes")]
    assert labelled(families[family], chat) == expected(family, ["Yes", "Yes"])[1:]
    chat = [user("Yes"), answer("Yes"), user("Yes"), answer("Yes", train=False)]
    assert labelled(families[family], chat) == expected(family, ["Yes", "Yes"])[:1]


@pytest.mark.parametrize("family", FAMILIES)
def test_truncated_answer_has_no_end_token_label(family: str, families: dict[str, Any]) -> None:
    labelled_text = labelled(families[family], [user("on and on"), answer("B and")], truncated=True)
    assert labelled_text == [AROUND[family][-1][0] + "B and"]


ALTERNATING = ("llama2", "gemma2", "gemma3", "mistral1", "mistral-tekken")


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {*ALTERNATING, "text"}))
def test_chat_may_begin_with_the_assistant(family: str, families: dict[str, Any]) -> None:
    """The empty prefix before the first turn is artificial; no template renders it."""
    chat = [answer("Hello, how can I help?"), user("A prime."), answer("Seven.")]
    labelled_text = labelled(families[family], chat)
    assert labelled_text == expected(family, ["Hello, how can I help?", "Seven."])


@pytest.mark.parametrize("family", ALTERNATING)
def test_template_that_rejects_a_leading_assistant_turn(
    family: str, families: dict[str, Any]
) -> None:
    chat = [answer("Hello!"), user("A prime."), answer("Seven.")]
    with pytest.raises(
        DataError, match="rejects this chat: Conversation roles must alternate"
    ) as e:
        labelled(families[family], chat)
    assert "begins with the assistant" in e.value.hint


def test_prefix_with_only_a_system_turn_is_not_rendered(families: dict[str, Any]) -> None:
    """The template requires a user turn; the whole chat has one, the prefix does not."""
    chat = [system("Be kind."), answer("Hello!"), user("A prime."), answer("Seven.")]
    labelled_text = labelled(families["qwen-opened"], chat)
    assert labelled_text == expected("qwen-opened", ["Hello!", "Seven."])


@pytest.mark.slow
@settings(max_examples=400)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    answers=st.lists(ANSWERS, min_size=1, max_size=4),
    texts=st.lists(TEXTS, min_size=4, max_size=4),
    echo=st.booleans(),
    trained=st.integers(0, 15),
)
def test_user_text_is_never_labelled(
    family: str,
    answers: list[str],
    texts: list[str],
    echo: bool,
    trained: int,
    families: dict[str, Any],
) -> None:
    """User turns contain answers, roles, markup and end tokens; only the assistant is labelled."""
    chat = []
    for index, text in enumerate(answers):
        user_text = f"{texts[index]} {text} {texts[-1 - index]}" if echo else texts[index]
        chat += [user(user_text), answer(text, train=bool(trained >> index & 1))]
    expected_text = [run for i, run in enumerate(expected(family, answers)) if trained >> i & 1]
    labelled_text = labelled(families[family], chat)
    # A prompt may end in a space that forms one token with the answer's first word.
    assert [run.lstrip(" ") for run in labelled_text] == [run.lstrip(" ") for run in expected_text]


# ---------------------------------------------------------------- token boundaries


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "trimmed"])
def merging_tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Return a tokenizer with " Yes" as one token, whose offsets include the space or not."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if request.param:
        inner.post_processor = processors.ByteLevel(trim_offsets=True)
    inner.train_from_iterator(
        ["Answer: Yes the door is open\n\nand so on"] * 9,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|im_end|>", "<|im_start|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    tokenizer.chat_template = FAMILIES["text"]
    return tokenizer


def test_token_straddling_the_end_of_the_prompt_is_labelled(merging_tokenizer: Any) -> None:
    encoded = encode_chat(merging_tokenizer, [user("Open?"), answer("Yes the door is open")])
    assert runs(merging_tokenizer, encoded) == [" Yes the door is open<|im_end|>"]
    assert encoded.straddles
    assert (
        encode_prompt(merging_tokenizer, [user("Open?")])[-1]
        == merging_tokenizer(" ")["input_ids"][0]
    )
    single_word = encode_chat(merging_tokenizer, [user("Open?"), answer("Yes")])
    assert runs(merging_tokenizer, single_word) == [" Yes<|im_end|>"]
    assert single_word.labelled == 2


def test_blank_lines_within_an_answer_are_labelled(merging_tokenizer: Any) -> None:
    """Some tokenizers report empty offsets for whitespace tokens."""
    tokenizer = copy.deepcopy(merging_tokenizer)
    tokenizer.chat_template = OUR_CHATML
    encoded = encode_chat(tokenizer, [user("and\n\nso on"), answer("open\n\nand so on")])
    assert runs(tokenizer, encoded) == ["open\n\nand so on<|im_end|>"]
    assert not encoded.straddles


@pytest.mark.parametrize("content", ["", "  \n ", None])
def test_empty_answer_is_not_labelled(content: Any, families: dict[str, Any]) -> None:
    encoded = encode_chat(families["chatml"], [user("Name a prime."), answer(content)])
    assert (encoded.labelled, encoded.empty) == (0, 1)
    chat = [user("a"), answer(content), user("b"), answer("c")]
    for family in ("chatml", "qwen3", "phi3", "harmony"):
        assert labelled(families[family], chat) == expected(family, ["x", "c"])[1:], family


# ---------------------------------------------------------------- ambiguous turns

REWRITING_TEMPLATE = (
    "{%- for m in messages -%}{{- '[' + (m.role | upper) + '] ' + (m.content[:9]) + "
    "(' (' ~ (messages | length) ~ ')') + '<|im_end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '[ASSISTANT] ' -}}{%- endif -%}"
)


def test_turn_that_cannot_be_located_is_rejected(plain_tokenizer: Any) -> None:
    """The template truncates texts to nine characters and rewrites all turns as the chat grows."""
    tokenizer = marked_tokenizer(plain_tokenizer, REWRITING_TEMPLATE)
    chat = [user("B and much more"), answer("a long answer"), user("B"), answer("another answer")]
    with pytest.raises(DataError, match="assistant turn 1 cannot be located") as caught:
        labelled(tokenizer, chat)
    assert "train: false" in caught.value.hint
    first = [chat[0], answer("a long answer", train=False), chat[2], answer("B")]
    with pytest.raises(DataError, match="assistant turn 2 cannot be located"):
        labelled(tokenizer, first)


def test_answer_consisting_only_of_tags_is_labelled(families: dict[str, Any]) -> None:
    for text in ("<b>", "[/INST]", "<think>\n<b>\n</think>\n\n<i>"):
        for family in ("qwen3", "qwen-opened", "r1", "harmony", "phi3"):
            encoded = encode_chat(families[family], [user("x"), answer(text)])
            (run,) = runs(families[family], encoded)
            assert run.endswith(text[-3:] + AROUND[family][-1][1])
            assert encoded.empty == 0


def test_private_use_characters_in_a_chat(families: dict[str, Any]) -> None:
    for character in ("\U000f0000\U000f0001", "\U00100000", "\ue000"):
        chat = [user(f"{character} B"), answer(f"{character} B"), user("B"), answer("B")]
        labelled_text = labelled(families["qwen3"], chat)
        assert labelled_text == expected("qwen3", [f"{character} B", "B"])


# ---------------------------------------------------------------- shipped rows


def prefix_labels(tokenizer: Any, messages: list[dict[str, Any]], truncated: bool) -> list[int]:
    """Compute labels by rendering prefixes, which works for append-only templates."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    labels = [IGNORE_INDEX] * len(encoded["input_ids"])
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenizer.apply_chat_template(
            messages[:index], tokenize=False, add_generation_prompt=True
        )
        end = len(before) + len(message["content"].rstrip())
        if not (truncated and index == len(messages) - 1):
            end = text.index("<|im_end|>", end) + len("<|im_end|>")
        for token, (start, stop) in enumerate(encoded["offset_mapping"]):
            if len(before) <= start < end and stop > start:
                labels[token] = encoded["input_ids"][token]
    return labels


@pytest.mark.parametrize("family", ["chatml", "smollm2", "ours"])
def test_labels_of_shipped_rows_match_prefix_labels(family: str, plain_tokenizer: Any) -> None:
    tokenizer = marked_tokenizer(plain_tokenizer, FAMILIES.get(family, OUR_CHATML))
    folder = resources.files("kdharness.data")
    for name in ("general/validation", "general/test", "shop/validation", "shop/test"):
        for line in folder.joinpath(f"{name}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            truncated = bool(row.get("truncated"))
            encoded = encode_chat(tokenizer, row["messages"], truncated=truncated)
            assert encoded.labels == prefix_labels(tokenizer, row["messages"], truncated), name
            text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
            assert encoded.input_ids == tokenizer(text, add_special_tokens=False)["input_ids"]


# ---------------------------------------------------------------- answers that a prompt begins

PREFILLED = [
    {"role": "user", "content": "What colour?"},
    {"role": "assistant", "content": "It is red. Yes.", "prefill": "It is "},
]


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma2", "zephyr", "qwen3", "mistral3"])
def test_the_beginning_that_a_prompt_gives_is_not_labelled(
    family: str, families: dict[str, Any]
) -> None:
    tokenizer = families[family]
    (whole,) = labelled(tokenizer, [PREFILLED[0], {**PREFILLED[1], "prefill": ""}])
    (rest,) = labelled(tokenizer, PREFILLED)
    assert "It is red. Yes." in whole
    assert rest == whole[whole.index("red.") :] or rest == whole[whole.index(" red.") :]


def test_generation_marks_leave_the_beginning_out_too(plain_tokenizer: Any) -> None:
    (rest,) = labelled(marked_tokenizer(plain_tokenizer, MARKED), PREFILLED)
    assert rest.strip() == "red. Yes.<|im_end|>"


def test_a_completion_without_text_is_no_answer(families: dict[str, Any]) -> None:
    turn = {**PREFILLED[1], "content": "It is ", "prefill": "It is "}
    encoded = encode_chat(families["chatml"], [PREFILLED[0], turn])
    assert encoded.labelled == 0 and encoded.empty == 1


def test_a_template_that_rewrites_a_begun_answer_refuses_it(plain_tokenizer: Any) -> None:
    template = OUR_CHATML.replace("message['content']", "message['content'] | replace('is', 'IS')")
    tokenizer = marked_tokenizer(plain_tokenizer, template)
    with pytest.raises(DataError, match="does not render that turn as it is written"):
        encode_chat(tokenizer, PREFILLED)
