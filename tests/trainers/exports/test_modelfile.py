"""Ollama Modelfiles: a Go template that writes what the chat template writes, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from kdharness.harness.chat.rendering import render
from kdharness.harness.errors import DataError
from kdharness.harness.paths import Paths
from kdharness.trainers.exports.export import export_gguf
from kdharness.trainers.exports.modelfile import NoTemplateError, modelfile, pattern, sampling
from support import chat_templates
from support.chat_templates import with_tokens
from support.models import make_llama, make_tokenizer

CHATML = chat_templates.CHATML
LAST = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m.role == 'user' %}[INST] {% if loop.last and s is defined %}"
    "{{ s }}\n\n{% endif %}{{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
FIRST = LAST.replace("loop.last", "loop.first")
DEFAULT = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}"
) + CHATML

GO = {
    "chatml": (
        CHATML,
        "<|im_end|>",
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ else }}{{ end }}"
        '{{ range $i, $_ := .Messages }}{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}'
        "<|im_end|>\n<|im_start|>assistant\n"
        '{{ else if eq .Role "assistant" }}{{ .Content }}'
        "{{ if not (eq (len (slice $.Messages $i)) 1) }}<|im_end|>\n{{ end }}{{ end }}{{ end }}",
    ),
    "default system prompt": (
        DEFAULT,
        "<|im_end|>",
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n"
        "{{ else }}<|im_start|>system\nYou are kind.<|im_end|>\n{{ end }}"
        '{{ range $i, $_ := .Messages }}{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}'
        "<|im_end|>\n<|im_start|>assistant\n"
        '{{ else if eq .Role "assistant" }}{{ .Content }}'
        "{{ if not (eq (len (slice $.Messages $i)) 1) }}<|im_end|>\n{{ end }}{{ end }}{{ end }}",
    ),
    "system in the last turn": (
        LAST,
        "</s>",
        '{{ range $i, $_ := .Messages }}{{ if eq .Role "user" }}[INST] '
        "{{ if and $.System (eq (len (slice $.Messages $i)) 1) }}{{ $.System }}\n\n{{ end }}"
        "{{ .Content }}{{ if (eq (len (slice $.Messages $i)) 1) }}[/INST]{{ else }}[/INST] "
        "{{ end }}"
        '{{ else if eq .Role "assistant" }}{{ .Content }}'
        "{{ if not (eq (len (slice $.Messages $i)) 1) }}</s>{{ end }}{{ end }}{{ end }}",
    ),
    "system in the first turn": (
        FIRST,
        "</s>",
        "{{ $first := true }}"
        '{{ range $i, $_ := .Messages }}{{ if eq .Role "user" }}[INST] '
        "{{ if and $.System $first }}{{ $.System }}\n\n{{ end }}"
        "{{ .Content }}{{ if (eq (len (slice $.Messages $i)) 1) }}[/INST]{{ else }}[/INST] "
        "{{ end }}"
        '{{ $first = false }}{{ else if eq .Role "assistant" }}{{ .Content }}'
        "{{ if not (eq (len (slice $.Messages $i)) 1) }}</s>{{ end }}{{ end }}{{ end }}",
    ),
    "braces": (
        CHATML.replace("<|im_start|>", "{{").replace("<|im_end|>", "}}"),
        "",
        '{{ if .System }}{{ "{{" }}system\n{{ .System }}}}\n{{ else }}{{ end }}'
        '{{ range $i, $_ := .Messages }}{{ if eq .Role "user" }}{{ "{{" }}user\n{{ .Content }}'
        '}}\n{{ "{{" }}assistant\n'
        '{{ else if eq .Role "assistant" }}{{ .Content }}'
        "{{ if not (eq (len (slice $.Messages $i)) 1) }}}}\n{{ end }}{{ end }}{{ end }}",
    ),
}
"""Name -> chat template, end token, and the Go template (run through Go when it was written)."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def tokenizer_of(base: Any, template: str) -> Any:
    found = with_tokens(base, template)
    found.bos_token, found.eos_token = "<s>", "</s>"
    return found


@pytest.mark.parametrize("name", GO)
def test_go_templates(base: Any, name: str) -> None:
    template, end, expected = GO[name]
    assert pattern(tokenizer_of(base, template), end).go("<s>") == expected


FAMILIES = (
    *("LLAMA2", "LLAMA3", "QWEN25", "QWEN3", "GEMMA2", "GEMMA3", "MISTRAL3", "MISTRAL_TEKKEN"),
    *("PHI3", "PHI4", "SMOLLM2", "ZEPHYR", "VICUNA", "GRANITE", "COMMAND_R", "GLM", "R1", "V3"),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_published_templates_are_written_alike(base: Any, name: str) -> None:
    tokenizer = tokenizer_of(base, getattr(chat_templates, name))
    found = pattern(tokenizer, "")
    turns = [
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c\n\nd"),
        ("assistant", "e"),
        ("user", "f"),
    ]
    for chat in (turns, turns[:1], [("system", "S"), *turns]):
        if chat[0][0] == "system" and found.system is None:
            with pytest.raises(DataError):
                rendered(tokenizer, chat)
            continue
        assert found.write(chat) == rendered(tokenizer, chat)


def rendered(tokenizer: Any, turns: list[tuple[str, str]]) -> str:
    return render(tokenizer, [{"role": r, "content": text} for r, text in turns], prompt=True)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}",
        "{{ messages[-1].content }}",
        CHATML.replace("m.content", "(m.content | upper)"),
        CHATML.replace("m.content", "(m.content | length | string)"),
        CHATML.replace("m.content", "(m.content + '!' if loop.index > 3 else m.content)"),
    ],
)
def test_templates_that_do_more_have_none(base: Any, template: str) -> None:
    with pytest.raises(NoTemplateError):
        pattern(tokenizer_of(base, template), "")


@pytest.mark.parametrize(
    ("written", "strips"), [("m.content", False), ("(m.content | trim)", True)]
)
def test_white_space_that_ollama_keeps_is_said(base: Any, written: str, strips: bool) -> None:
    found = pattern(tokenizer_of(base, CHATML.replace("m.content", written)), "")
    assert found.strips == strips
    text = modelfile("m.gguf", found, ["</s>"], None, bos="", context=512)
    assert text.startswith("# The model's chat template drops white space" if strips else "FROM ")


WORDS = st.text("ab{}\n\"'%", min_size=1, max_size=6)


@given(before=WORDS, after=WORDS, reply=WORDS, end=WORDS)
def test_any_words_around_turns_are_found(
    base: Any, before: str, after: str, reply: str, end: str
) -> None:
    quoted = [repr(text) for text in (before, after, reply, end)]
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ B + m.content + A + R }}"
        "{% elif m.role == 'system' %}{{ A + m.content + B }}{% else %}{{ m.content + E }}"
        "{% endif %}{% endfor %}"
    )
    for letter, text in zip("BARE", quoted, strict=True):
        template = template.replace(f"{letter} ", f"{text} ").replace(f" {letter} ", f" {text} ")
    tokenizer = tokenizer_of(base, template)
    found = pattern(tokenizer, "")
    chat = [("system", "S"), ("user", "U"), ("assistant", "V"), ("user", "W")]
    assert found.write(chat) == rendered(tokenizer, chat)


USUAL = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "repeat_penalty": 1.0,
}


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ({}, {}),
        ({"temperature": 0.6, "top_k": 20}, {"temperature": 0.6, "top_k": 20}),
        ({"repetition_penalty": 1.1}, {"repeat_penalty": 1.1}),
        # Off, which is not the same as unset.
        ({"top_k": 0}, {"top_k": 0}),
        ({"top_p": 0.0, "min_p": 0.05}, {"top_p": 0.0, "min_p": 0.05}),
        ({"typical_p": 0.9}, {"typical_p": 0.9}),
    ],
)
def test_sampling_is_the_models_own(given: dict[str, float], changed: dict[str, float]) -> None:
    """Ollama's own top_k is 40, and its top_p 0.9."""
    assert sampling(GenerationConfig(do_sample=True, **given)) == USUAL | changed


def test_the_settings_of_sampling_are_those_that_transformers_takes() -> None:
    defaults = GenerationConfig()._get_default_generation_params()
    own = {name: value for name, value in USUAL.items() if name in defaults}
    assert own.items() <= defaults.items()
    assert set(own) == {"temperature", "top_p", "top_k"}
    # What is left out is off in both.
    assert defaults["typical_p"] == 1.0 and "min_p" not in defaults


def test_without_sampling_answers_are_greedy() -> None:
    greedy = {"temperature": 0, "repeat_penalty": 1.0}
    assert sampling(GenerationConfig(temperature=0.7, top_k=0)) == greedy
    assert sampling(None) == greedy


def test_a_top_k_that_is_off_is_written(paths: Paths, tmp_path: Path) -> None:
    model = make_llama(tmp_path / "m")
    model.generation_config.update(do_sample=True, top_k=0)
    model.generation_config.save_pretrained(tmp_path / "m")
    made = export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    assert "PARAMETER top_k 0" in (made.folder / "Modelfile").read_text("utf-8").splitlines()


def test_a_modelfile_beside_the_file(paths: Paths, tmp_path: Path) -> None:
    make_llama(tmp_path / "m")
    made = export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    text = (made.folder / "Modelfile").read_text("utf-8")
    lines = text.splitlines()
    assert lines[0] == "FROM ./m-q8_0.gguf"
    assert lines[-4:] == [
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1.0",
        "PARAMETER num_ctx 512",
    ]
    assert text.count('"""') == 2


@pytest.mark.parametrize("template", ["", "{{ messages[-1].content }}"])
def test_without_a_modelfile_the_reason_is_said(
    template: str, paths: Paths, tmp_path: Path
) -> None:
    make_llama(tmp_path / "m")
    path = tmp_path / "m" / "chat_template.jinja"
    path.write_text(template, "utf-8") if template else path.unlink()
    made = export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    assert "Modelfile" not in made.files
    assert any(note.startswith("no Modelfile: the chat template") for note in made.notes)


def test_quotes_that_would_end_the_template(base: Any) -> None:
    tokenizer = tokenizer_of(base, CHATML.replace("<|im_end|>", '""""'))
    with pytest.raises(NoTemplateError, match="quotes"):
        modelfile("m.gguf", pattern(tokenizer, ""), ["</s>"], None, bos="", context=512)
