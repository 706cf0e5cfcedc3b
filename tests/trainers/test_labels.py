"""What is labelled, template by template, against expectations written by hand."""

from __future__ import annotations

import copy
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from conftest import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.chat.end_tokens import end_of_turn
from kdharness.harness.chat.template import CHATML as OUR_CHATML
from kdharness.harness.chat.template import IGNORE, EncodedChat, encode_chat, encode_prompt, render
from kdharness.harness.errors import DataError

from .chat_templates import FAMILIES, with_tokens


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tokenizer(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def families(plain: Any) -> dict[str, Any]:
    """A tokenizer for each family."""
    return {name: with_tokens(plain, template) for name, template in FAMILIES.items()}


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def answer(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": "abcdefghi", "type": "function", "function": function}


def placed(tokenizer: Any, encoded: EncodedChat) -> list[tuple[int, str]]:
    """The unbroken runs of labels, each with the number of characters before it."""
    found: list[tuple[int, list[int]]] = []
    before = IGNORE
    for index, (token, label) in enumerate(zip(encoded.input_ids, encoded.labels, strict=True)):
        assert label in (IGNORE, token)
        if label != IGNORE:
            if before == IGNORE:
                found.append((index, []))
            found[-1][1].append(token)
        before = label
    ids = encoded.input_ids
    return [(len(tokenizer.decode(ids[:index])), tokenizer.decode(run)) for index, run in found]


def runs(tokenizer: Any, encoded: EncodedChat) -> list[str]:
    """The texts of unbroken runs of labels."""
    return [text for _, text in placed(tokenizer, encoded)]


def labelled(tokenizer: Any, messages: list[dict[str, Any]], **more: Any) -> list[str]:
    """What is labelled; at the same places as if the users had written x alone.

    Text alone would not do: a user may have written the very answer.
    """
    found = placed(tokenizer, encode_chat(tokenizer, messages, **more))
    blank = [
        {**m, "content": re.sub(r"\S", "x", m["content"])} if m["role"] == "user" else m
        for m in messages
    ]
    assert found == placed(tokenizer, encode_chat(tokenizer, blank, **more))
    return [text for _, text in found]


# ---------------------------------------------------------------- every family

# What stands around an answer that turns follow, and around the last one.
AROUND = {
    "chatml": (("", "<|im_end|>"),),
    "llama2": ((" ", " </s>"),),
    "llama3": (("", "<|eot_id|>"),),
    "llama3-always": (("", "<|eot_id|>"),),
    "qwen2.5": (("", "<|im_end|>"),),
    "qwen3": (("", "<|im_end|>"), ("<think>\n\n</think>\n\n", "<|im_end|>")),
    "qwen-opened": (("", "<|im_end|>"), ("\n</think>\n\n", "<|im_end|>")),
    "gemma2": (("", "<end_of_turn>"),),
    "gemma3": (("", "<end_of_turn>"),),
    "mistral1": ((" ", "</s>"),),
    "mistral3": ((" ", "</s>"),),
    "mistral-tekken": (("", "</s>"),),
    "phi3": (("", "<|end|>"),),
    "phi4": (("", "<|im_end|>"),),
    "smollm2": (("", "<|im_end|>"),),
    "r1": (("", "<｜end▁of▁sentence｜>"),),
    "v3": (("", "<｜end▁of▁sentence｜>"),),
    "harmony": (
        ("<|channel|>final<|message|>", "<|end|>"),
        ("<|channel|>final<|message|>", "<|return|>"),
    ),
    "zephyr": (("", "</s>"),),
    "vicuna": ((" ", "</s>"),),
    "granite": (("", "<|end_of_text|>"),),
    "command-r": (("", "<|END_OF_TURN_TOKEN|>"),),
    "glm": (("", ""),),
    "end-once": (("", ""), ("", "</s>")),
    "text": (("", "<|im_end|>"),),
}


def expected(family: str, answers: list[str]) -> list[str]:
    around = AROUND[family]
    last = len(answers) - 1
    return [
        around[0 if i < last else -1][0] + text + around[0 if i < last else -1][1]
        for i, text in enumerate(answers)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answers_and_their_ends_are_labelled(family: str, families: dict[str, Any]) -> None:
    """Questions here hold the answers, word for word, before and after them."""
    chat = [
        user("Copy this line:\nThe cat sat."),
        answer("The cat sat."),
        user("The cat sat. Another:\nIt rains."),
        answer("It rains."),
        user("Choose: A or B"),
        answer("B"),
    ]
    found = labelled(families[family], chat)
    assert found == expected(family, ["The cat sat.", "It rains.", "B"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_turn_that_is_not_trained_has_no_label(family: str, families: dict[str, Any]) -> None:
    chat = [user("Yes"), answer("Yes", train=False), user("Yes"), answer("Yes")]
    assert labelled(families[family], chat) == expected(family, ["Yes", "Yes"])[1:]
    chat = [user("Yes"), answer("Yes"), user("Yes"), answer("Yes", train=False)]
    assert labelled(families[family], chat) == expected(family, ["Yes", "Yes"])[:1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_answer_teaches_no_end(family: str, families: dict[str, Any]) -> None:
    found = labelled(families[family], [user("on and on"), answer("B and")], truncated=True)
    assert found == [AROUND[family][-1][0] + "B and"]


ALTERNATING = ("llama2", "gemma2", "gemma3", "mistral1", "mistral-tekken")


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {*ALTERNATING, "text"}))
def test_a_chat_may_begin_with_the_assistant(family: str, families: dict[str, Any]) -> None:
    """The empty chat before its first turn is ours, and no template renders it."""
    chat = [answer("Hello, how can I help?"), user("A prime."), answer("Seven.")]
    found = labelled(families[family], chat)
    assert found == expected(family, ["Hello, how can I help?", "Seven."])


@pytest.mark.parametrize("family", ALTERNATING)
def test_a_template_that_refuses_such_a_chat_says_why(
    family: str, families: dict[str, Any]
) -> None:
    chat = [answer("Hello!"), user("A prime."), answer("Seven.")]
    with pytest.raises(
        DataError, match="refuses this chat: Conversation roles must alternate"
    ) as e:
        labelled(families[family], chat)
    assert "begins with the assistant" in e.value.hint


def test_a_prefix_of_only_a_system_turn_is_not_rendered_alone(families: dict[str, Any]) -> None:
    """The template wants a question somewhere; the whole chat has one."""
    chat = [system("Be kind."), answer("Hello!"), user("A prime."), answer("Seven.")]
    found = labelled(families["qwen-opened"], chat)
    assert found == expected("qwen-opened", ["Hello!", "Seven."])


WORDS = [
    "yes",
    "no",
    "The cat sat.",
    "B",
    "It rains.",
    "assistant",
    "user",
    "### Answer:",
    "[/INST]",
    "ASSISTANT:",
    "<think>",
    "</think>",
    "<b>",
    "</b>",
    "1.",
    "…",
    "非常好",
    "🙂",
    "model",
    '"',
    "{}",
    "<|im_start|>",
    "<|im_end|>",
]
PLAIN_WORDS = [word for word in WORDS if "think" not in word and "|" not in word]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
ANSWERS = st.lists(st.sampled_from(PLAIN_WORDS), min_size=1, max_size=4).map("\n".join)


@settings(max_examples=400, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    answers=st.lists(ANSWERS, min_size=1, max_size=4),
    texts=st.lists(TEXTS, min_size=4, max_size=4),
    echo=st.booleans(),
    trained=st.integers(0, 15),
)
def test_nothing_of_a_user_is_ever_labelled(
    family: str,
    answers: list[str],
    texts: list[str],
    echo: bool,
    trained: int,
    families: dict[str, Any],
) -> None:
    """Users write answers, roles, markup and end tokens; the labels are the assistant's alone."""
    chat = []
    for index, text in enumerate(answers):
        asked = f"{texts[index]} {text} {texts[-1 - index]}" if echo else texts[index]
        chat += [user(asked), answer(text, train=bool(trained >> index & 1))]
    wanted = [one for i, one in enumerate(expected(family, answers)) if trained >> i & 1]
    found = labelled(families[family], chat)
    # A prompt may end in a blank that is one token with the answer's first word.
    assert [run.lstrip(" ") for run in found] == [run.lstrip(" ") for run in wanted]


# ---------------------------------------------------------------- thoughts

THOUGHT = "<think>\nTwice two.\n</think>\n\nEven."


@pytest.mark.parametrize(
    ("family", "found"),
    [
        ("chatml", [THOUGHT + "<|im_end|>"] * 2),
        # The template drops earlier thoughts, and keeps the last answer's.
        ("qwen3", ["Even.<|im_end|>", THOUGHT + "<|im_end|>"]),
        # The prompt holds the opened thought.
        ("qwen-opened", ["Even.<|im_end|>", "Twice two.\n</think>\n\nEven.<|im_end|>"]),
        # The template drops every thought; what is rendered is learnt.
        ("r1", ["\n\nEven.<｜end▁of▁sentence｜>"] * 2),
    ],
)
def test_thoughts_are_learnt_as_they_are_rendered(
    family: str, found: list[str], families: dict[str, Any]
) -> None:
    chat = [user("Is four even?"), answer(THOUGHT), user("Once more: Even."), answer(THOUGHT)]
    encoded = encode_chat(families[family], chat)
    assert runs(families[family], encoded) == found
    assert encoded.unshown == sum("Twice" not in text for text in found)


def test_an_answer_whose_thought_was_opened_by_the_prompt(families: dict[str, Any]) -> None:
    """Recorded completions hold the closing mark alone."""
    chat = [user("2 + 2"), answer("Two and two.\n</think>\n\n4")]
    assert labelled(families["qwen-opened"], chat) == ["Two and two.\n</think>\n\n4<|im_end|>"]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_beside_the_content(name: str, families: dict[str, Any]) -> None:
    chat = [user("Is four even?"), answer("Even.", **{name: "Twice two."})]
    assert labelled(families["qwen3"], chat) == [THOUGHT + "<|im_end|>"]
    assert labelled(families["harmony"], chat) == [
        "<|channel|>analysis<|message|>Twice two.<|end|><|start|>assistant"
        "<|channel|>final<|message|>Even.<|return|>"
    ]
    for family in ("chatml", "r1", "llama3"):
        with pytest.raises(DataError, match=f"does not render {name}"):
            labelled(families[family], chat)


def test_a_prompt_that_answers_without_thinking(families: dict[str, Any]) -> None:
    chat = [user("Is four even?"), answer("Even.")]
    found = labelled(families["qwen3"], chat, variables={"enable_thinking": False})
    assert found == ["Even.<|im_end|>"]
    with pytest.raises(DataError, match="does not render enable_thinking"):
        labelled(families["chatml"], chat, variables={"enable_thinking": False})


def test_an_answer_that_is_a_thought_alone_is_empty_where_that_is_dropped(
    families: dict[str, Any],
) -> None:
    encoded = encode_chat(families["r1"], [user("a"), answer("<think>\nb\n</think>")])
    assert (encoded.labelled, encoded.empty) == (0, 1)


@settings(max_examples=200, deadline=None)
@given(family=st.sampled_from(sorted(FAMILIES)), echo=st.booleans(), data=st.data())
def test_thoughts_bring_nothing_of_a_user_into_the_labels(
    family: str, echo: bool, data: st.DataObject, families: dict[str, Any]
) -> None:
    """Whatever a template does with thoughts, an answer's run is its own turn to its end."""
    answers = data.draw(st.lists(ANSWERS, min_size=1, max_size=3))
    chat = []
    for text in answers:
        thought = data.draw(st.sampled_from(["", "<think>\n{}\n</think>\n\n", "{}</think>"]))
        said = thought.format(data.draw(ANSWERS)) + text
        chat += [user(f"{said} {data.draw(TEXTS)}" if echo else data.draw(TEXTS)), answer(said)]
    found = labelled(families[family], chat)
    last = len(answers) - 1
    for index, (run, text) in enumerate(zip(found, answers, strict=True)):
        assert run.endswith(text + AROUND[family][-1 if index == last else 0][1])


# ---------------------------------------------------------------- tools

TOOLS = [{"type": "function", "function": {"name": "rain", "parameters": {"type": "object"}}}]
WEATHER = [
    user("Rain in Oslo?"),
    answer(None, tool_calls=[call("rain", town="Oslo", days=2)]),
    {"role": "tool", "tool_call_id": "abcdefghi", "content": '{"rain": "Oslo"}'},
    answer("Yes, in Oslo."),
    user("Oslo?"),
    answer("Oslo."),
]
ARGUMENTS = '{"town": "Oslo", "days": 2}'


@pytest.mark.parametrize(
    ("family", "first"),
    [
        ("llama3", '{"name": "rain", "parameters": ' + ARGUMENTS + "}<|eot_id|>"),
        (
            "qwen2.5",
            '<tool_call>\n{"name": "rain", "arguments": ' + ARGUMENTS + "}\n</tool_call><|im_end|>",
        ),
        (
            "qwen3",
            '\n<tool_call>\n{"name": "rain", "arguments": '
            + ARGUMENTS
            + "}\n</tool_call><|im_end|>",
        ),
        # Its tools stand before the last question, and move as the chat grows.
        (
            "mistral3",
            '[TOOL_CALLS] [{"name": "rain", "arguments": '
            + ARGUMENTS
            + ', "id": "abcdefghi"}]</s>',
        ),
    ],
)
def test_calls_are_learnt_and_results_are_not(
    family: str, first: str, families: dict[str, Any]
) -> None:
    found = labelled(families[family], WEATHER, tools=TOOLS)
    assert found == [first, *expected(family, ["Yes, in Oslo.", "Oslo."])]
    assert '"rain"' in render(families[family], WEATHER, prompt=False)


def test_arguments_are_given_as_text_where_the_template_joins_texts(
    families: dict[str, Any],
) -> None:
    found = labelled(families["v3"], WEATHER)
    end = "<｜end▁of▁sentence｜>"
    assert found[0] == f"call rain\n```json\n{ARGUMENTS}\n```{end}"
    assert found[1:] == [f"Yes, in Oslo.{end}", f"Oslo.{end}"]


def test_a_call_of_harmony_ends_in_its_own_token(families: dict[str, Any]) -> None:
    assert labelled(families["harmony"], WEATHER) == [
        " to=functions.rain<|channel|>commentary json<|message|>" + ARGUMENTS + "<|call|>",
        *expected("harmony", ["Yes, in Oslo.", "Oslo."]),
    ]


@pytest.mark.parametrize("family", ["chatml", "smollm2", "zephyr", "gemma3"])
def test_what_a_template_does_not_render_is_refused_by_name(
    family: str, families: dict[str, Any]
) -> None:
    """It would train the end of turn alone, or an answer to tools that nobody offered."""
    tokenizer = families[family]
    short = [user("Rain?"), answer("", tool_calls=[call("rain")]), user("So?"), answer("Yes.")]
    with pytest.raises(DataError, match="does not render tool_calls"):
        labelled(tokenizer, short)
    with pytest.raises(DataError, match="does not render tools"):
        labelled(tokenizer, [user("Rain?"), answer("Yes.")], tools=TOOLS)
    with pytest.raises(DataError, match="does not render name"):
        labelled(tokenizer, [{**user("Rain?"), "name": "Ada"}, answer("Yes.")])


def test_results_out_of_order_need_a_template_that_shows_which_is_which(
    families: dict[str, Any],
) -> None:
    calls = [{**call("rain", town=town), "id": town} for town in ("Oslo", "Bergen")]
    results = [
        {"role": "tool", "tool_call_id": town, "content": f"{town} wet"}
        for town in ("Bergen", "Oslo")
    ]
    chat = [user("Rain?"), answer("", tool_calls=calls), *results, answer("Both.")]
    with pytest.raises(DataError, match="does not render tool_call_id"):
        labelled(families["qwen2.5"], chat)
    chat[2:4] = chat[3:1:-1]
    assert labelled(families["qwen2.5"], chat)[-1] == "Both.<|im_end|>"


@pytest.mark.parametrize("family", ["mistral3"])
def test_a_system_turn_that_the_template_leaves_out_is_refused(
    family: str, families: dict[str, Any]
) -> None:
    """It is rendered with the last question when that comes last, which it never does here."""
    for text in ("Be terse.", "q"):
        with pytest.raises(DataError, match="does not render the system turn"):
            labelled(families[family], [system(text), user("q"), answer("a")])


# ---------------------------------------------------------------- marks

MARKED = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}"
    "{%- if m.role == 'assistant' -%}{%- generation -%}{{- m.content + '<|im_end|>' -}}"
    "{%- endgeneration -%}{%- else -%}{{- m.content + '<|im_end|>' -}}{%- endif -%}{{- '\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
TALK = [user("B"), answer("B"), user("B"), answer("C")]


def marked_tokenizer(plain: Any, template: str) -> Any:
    tokenizer = copy.deepcopy(plain)
    tokenizer.chat_template = template
    return tokenizer


def test_generation_marks_decide(plain: Any) -> None:
    tokenizer = marked_tokenizer(plain, MARKED)
    assert labelled(tokenizer, TALK) == ["B<|im_end|>", "C<|im_end|>"]
    assert labelled(tokenizer, [answer("B"), *TALK]) == ["B<|im_end|>"] * 2 + ["C<|im_end|>"]
    assert labelled(tokenizer, [*TALK[:3], answer("")]) == ["B<|im_end|>"]
    assert labelled(tokenizer, [TALK[0], answer("B", train=False), *TALK[2:]]) == ["C<|im_end|>"]
    assert labelled(tokenizer, TALK, truncated=True) == ["B<|im_end|>", "C"]
    bare = MARKED.replace(
        "m.content + '<|im_end|>' -}}{%- endgen", "m.content -}}{%- endgen"
    ).replace("{%- else", "{{- '<|im_end|>' -}}{%- else")
    assert labelled(marked_tokenizer(plain, bare), TALK) == ["B", "C"]


def test_marks_around_some_turns_are_followed_turn_by_turn(plain: Any) -> None:
    last = MARKED.replace(
        "{%- if m.role == 'assistant' -%}", "{%- if m.role == 'assistant' and loop.last -%}"
    )
    assert labelled(marked_tokenizer(plain, last), TALK) == ["C<|im_end|>"]
    off = [*TALK[:3], answer("C", train=False)]
    assert labelled(marked_tokenizer(plain, last), off) == []


def test_a_mark_that_ends_in_characters_of_no_token_ends_there(plain: Any) -> None:
    """The mask that transformers makes of it runs on to the end of the chat."""
    from tokenizers import AddedToken

    tokenizer = marked_tokenizer(
        plain, MARKED.replace("'<|im_end|>' -}}{%- endgen", "'<|turn|> ' -}}{%- endgen")
    )
    tokenizer.add_tokens([AddedToken("<|turn|>", rstrip=True, special=True, normalized=False)])
    assert labelled(tokenizer, TALK) == ["B<|turn|>", "C<|turn|>"]


# ---------------------------------------------------------------- borders


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "trimmed"])
def merging(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer for which " Yes" is one token; its offsets hold the blank or leave it out."""
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


def test_the_token_that_straddles_the_prompts_end_is_learnt(merging: Any) -> None:
    encoded = encode_chat(merging, [user("Open?"), answer("Yes the door is open")])
    assert runs(merging, encoded) == [" Yes the door is open<|im_end|>"]
    assert encoded.straddles
    assert encode_prompt(merging, [user("Open?")])[-1] == merging(" ")["input_ids"][0]
    one = encode_chat(merging, [user("Open?"), answer("Yes")])
    assert runs(merging, one) == [" Yes<|im_end|>"]
    assert one.labelled == 2


def test_blank_lines_within_an_answer_are_learnt(merging: Any) -> None:
    """Some tokenizers give a token of blanks no characters at all."""
    tokenizer = copy.deepcopy(merging)
    tokenizer.chat_template = OUR_CHATML
    encoded = encode_chat(tokenizer, [user("and\n\nso on"), answer("open\n\nand so on")])
    assert runs(tokenizer, encoded) == ["open\n\nand so on<|im_end|>"]
    assert not encoded.straddles


@pytest.mark.parametrize("content", ["", "  \n ", None])
def test_an_answer_that_says_nothing_is_not_trained(content: Any, families: dict[str, Any]) -> None:
    encoded = encode_chat(families["chatml"], [user("Name a prime."), answer(content)])
    assert (encoded.labelled, encoded.empty) == (0, 1)
    chat = [user("a"), answer(content), user("b"), answer("c")]
    for family in ("chatml", "qwen3", "phi3", "harmony"):
        assert labelled(families[family], chat) == expected(family, ["x", "c"])[1:], family


# ---------------------------------------------------------------- never a guess

SHOUTS = (
    "{%- for m in messages -%}{{- '[' + (m.role | upper) + '] ' + (m.content[:9]) + "
    "(' (' ~ (messages | length) ~ ')') + '<|im_end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '[ASSISTANT] ' -}}{%- endif -%}"
)


def test_a_turn_that_cannot_be_told_from_the_rest_is_refused(plain: Any) -> None:
    """This one cuts texts to nine characters and rewrites every turn as the chat grows."""
    tokenizer = marked_tokenizer(plain, SHOUTS)
    chat = [user("B and much more"), answer("a long answer"), user("B"), answer("another answer")]
    with pytest.raises(DataError, match="assistant turn 1 cannot be told") as caught:
        labelled(tokenizer, chat)
    assert "train: false" in caught.value.hint
    first = [chat[0], answer("a long answer", train=False), chat[2], answer("B")]
    with pytest.raises(DataError, match="assistant turn 2 cannot be told"):
        labelled(tokenizer, first)


def test_an_answer_of_nothing_but_tags_is_one(families: dict[str, Any]) -> None:
    for text in ("<b>", "[/INST]", "<think>\n<b>\n</think>\n\n<i>"):
        for family in ("qwen3", "qwen-opened", "r1", "harmony", "phi3"):
            encoded = encode_chat(families[family], [user("x"), answer(text)])
            (run,) = runs(families[family], encoded)
            assert run.endswith(text[-3:] + AROUND[family][-1][1])
            assert encoded.empty == 0


def test_private_characters_in_a_row_do_no_harm(families: dict[str, Any]) -> None:
    for odd in ("\U000f0000\U000f0001", "\U00100000", "\ue000"):
        chat = [user(f"{odd} B"), answer(f"{odd} B"), user("B"), answer("B")]
        found = labelled(families["qwen3"], chat)
        assert found == expected("qwen3", [f"{odd} B", "B"])


# ---------------------------------------------------------------- what was right stays


def prefix_labels(tokenizer: Any, messages: list[dict[str, Any]], truncated: bool) -> list[int]:
    """The straightforward way, for templates to which turns are only ever added."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    labels = [IGNORE] * len(coded["input_ids"])
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenizer.apply_chat_template(
            messages[:index], tokenize=False, add_generation_prompt=True
        )
        end = len(before) + len(message["content"].rstrip())
        if not (truncated and index == len(messages) - 1):
            end = text.index("<|im_end|>", end) + len("<|im_end|>")
        for token, (start, stop) in enumerate(coded["offset_mapping"]):
            if len(before) <= start < end and stop > start:
                labels[token] = coded["input_ids"][token]
    return labels


@pytest.mark.parametrize("family", ["chatml", "smollm2", "ours"])
def test_shipped_rows_have_the_labels_they_always_had(family: str, plain: Any) -> None:
    tokenizer = marked_tokenizer(plain, FAMILIES.get(family, OUR_CHATML))
    folder = resources.files("kdharness.data")
    for name in ("general/validation", "general/test", "shop/validation", "shop/test"):
        for line in folder.joinpath(f"{name}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            cut = bool(row.get("truncated"))
            encoded = encode_chat(tokenizer, row["messages"], truncated=cut)
            assert encoded.labels == prefix_labels(tokenizer, row["messages"], cut), name
            text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
            assert encoded.input_ids == tokenizer(text, add_special_tokens=False)["input_ids"]


# ---------------------------------------------------------------- where generation stops


@pytest.mark.parametrize("special", [True, False])
def test_the_templates_own_end_of_turn_is_found(special: bool, plain: Any) -> None:
    """It need not be among the tokenizer's named special tokens, nor special at all."""
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(plain)
    tokenizer.add_tokens([AddedToken("<|turn_end|>", special=special, normalized=False)])
    tokenizer.chat_template = FAMILIES["chatml"].replace("<|im_end|>", "<|turn_end|>")
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|turn_end|>")
    assert labelled(tokenizer, TALK) == ["B<|turn_end|>", "C<|turn_end|>"]


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"glm"}))
def test_every_family_ends_with_its_own_token(family: str, families: dict[str, Any]) -> None:
    tokenizer = families[family]
    token = AROUND[family][-1][1].strip()
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids(token)


def test_text_that_follows_an_answer_is_no_end_token(families: dict[str, Any], plain: Any) -> None:
    assert end_of_turn(families["glm"]) is None
    split = marked_tokenizer(plain, FAMILIES["chatml"].replace("<|im_end|>", "<|stop|>"))
    assert end_of_turn(split) is None
    assert labelled(split, TALK) == ["B<|stop|>", "C<|stop|>"]


def test_a_local_engine_stops_at_it(tmp_path: Path) -> None:
    """A model that always says the template's end token is done after one."""
    import torch
    from conftest import make_llama
    from tokenizers import AddedToken

    from kdharness.harness.paths import Paths
    from kdharness.harness.types import Finish, GenerationRequest
    from kdharness.judges.engines.local import LocalEngine

    for special in (True, False):
        folder = tmp_path / f"m{special}"
        tokenizer = make_tokenizer(folder)
        tokenizer.add_tokens([AddedToken("<|turn_end|>", special=special, normalized=False)])
        tokenizer.chat_template = FAMILIES["chatml"].replace("<|im_end|>", "<|turn_end|>")
        model = make_llama(vocab_size=len(tokenizer))
        with torch.no_grad():
            model.lm_head.weight.zero_()
            model.model.norm.weight.fill_(1)
            hidden = model.model(torch.tensor([encode_prompt(tokenizer, [user("a")])]))
            model.lm_head.weight[-1] = hidden.last_hidden_state[0, -1]
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        engine = LocalEngine(str(folder), Paths(tmp_path / "home"), dtype="float32")
        request = GenerationRequest(messages=(user("a"),), max_new_tokens=40)
        ((_, reply),) = engine.stream([request])
        assert (reply.finish, reply.tokens, reply.text) == (Finish.STOP, 0, "")
