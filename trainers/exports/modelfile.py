"""An Ollama Modelfile whose template says what the model's own chat template says.

Ollama's templates are Go's, so a Jinja template cannot be copied. What it writes around system,
user and assistant turns is found by rendering chats of words that stand for the turns, and the
result is compared with the model's own on longer chats: without agreement there is no Modelfile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kdharness.harness.chat.rendering import render
from kdharness.harness.errors import DataError

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

SYSTEM, ASKED, REPLIED, AGAIN = "Wsystem", "Wasked", "Wreplied", "Wagain"
LONGEST = 8192
"""Tokens of context that a Modelfile asks for at most: Ollama reserves the memory for them."""
Turn = tuple[str, str]


class NoTemplateError(Exception):
    """Why a chat template has no equal in Ollama."""


@dataclass(frozen=True)
class Pattern:
    """What a chat template writes around the turns of a chat.

    `strips` says that the template drops white space around turns, which Ollama cannot. `begin`
    opens a chat without a system prompt. `system` is around a system prompt; if it is part
    of a user turn, `folded` says which (`first` or `last`), and `system` what stands around it
    there. `reply` opens the answer to be generated, `replied` an answer in the chat.
    """

    begin: str
    system: tuple[str, str] | None
    folded: str
    user: str
    reply: str
    replied: str
    end: str
    strips: bool = False

    def write(self, turns: Sequence[Turn]) -> str:
        """Return the prompt of a chat, as the Go template below writes it."""
        system = "\n\n".join(text for role, text in turns if role == "system")
        rest = [turn for turn in turns if turn[0] != "system"]
        users = [i for i, (role, _) in enumerate(rest) if role == "user"]
        if system and self.system and not self.folded:
            parts = [self.system[0], system, self.system[1]]
        else:
            parts = [self.begin]
        for index, (role, text) in enumerate(rest):
            if role == "user":
                here = {"first": users[0], "last": users[-1]}.get(self.folded)
                parts.append(self.user)
                if system and self.system and index == here:
                    parts += [self.system[0], system, self.system[1]]
                parts += [text, self.reply if index == len(rest) - 1 else self.replied]
            else:
                parts += [text, self.end if index < len(rest) - 1 else ""]
        return "".join(parts)

    def go(self, bos: str) -> str:
        """Return the Go template; `bos` is left out, because Ollama adds it."""
        first, last = "$first", "(eq (len (slice $.Messages $i)) 1)"
        begin = _literal(self.begin.removeprefix(bos))
        inside, before = "", ""
        if self.system and not self.folded:
            before, after = _literal(self.system[0].removeprefix(bos)), _literal(self.system[1])
            begin = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{after}{{{{ else }}}}{begin}"
            begin += "{{ end }}"
        elif self.system:
            where = first if self.folded == "first" else last
            inside = f"{{{{ if and $.System {where} }}}}{_literal(self.system[0])}"
            inside += f"{{{{ $.System }}}}{_literal(self.system[1])}{{{{ end }}}}"
        before = "{{ $first := true }}" if self.folded == "first" else ""
        after = "{{ $first = false }}" if self.folded == "first" else ""
        reply = _literal(self.reply)
        if self.reply != self.replied:
            reply = f"{{{{ if {last} }}}}{reply}{{{{ else }}}}{_literal(self.replied)}{{{{ end }}}}"
        return (
            f"{before}{begin}{{{{ range $i, $_ := .Messages }}}}"
            f'{{{{ if eq .Role "user" }}}}{_literal(self.user)}{inside}{{{{ .Content }}}}{reply}'
            f'{after}{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}'
            f"{{{{ if not {last} }}}}{_literal(self.end)}{{{{ end }}}}{{{{ end }}}}{{{{ end }}}}"
        )


def default_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template, or the default one of several; empty if there is none."""
    found = tokenizer.chat_template
    found = found.get("default") if isinstance(found, Mapping) else found
    return found if isinstance(found, str) else ""


def pattern(tokenizer: PreTrainedTokenizerBase, end_token: str) -> Pattern:
    """Find what a tokenizer's chat template writes around turns.

    Args:
        end_token: the text of the token that ends an answer; empty if there is none.

    Raises:
        NoTemplateError: it does more than to write something around them.
    """
    chat = [("user", ASKED), ("assistant", REPLIED), ("user", AGAIN)]
    whole = _rendered(tokenizer, chat)
    head, replied, between, reply = _cut(whole, ASKED, REPLIED, AGAIN)
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    user = _common_end(head, between, added)
    if end_token and end_token in user:
        user = user.rpartition(end_token)[2].removeprefix("\n")
    system, folded = _system(tokenizer, chat, head, user)
    found = Pattern(
        begin=head.removesuffix(user),
        system=system,
        folded=folded,
        user=user,
        reply=reply,
        replied=replied,
        end=between.removesuffix(user),
    )
    _compare(tokenizer, found)
    system_turn: list[Turn] = [] if found.system is None else [("system", f" {SYSTEM}\n")]
    spaced = [*system_turn, *((role, f" {text}\n") for role, text in chat)]
    return replace(found, strips=found.write(spaced) != _rendered(tokenizer, spaced))


def _system(
    tokenizer: PreTrainedTokenizerBase, chat: Sequence[Turn], head: str, user: str
) -> tuple[tuple[str, str] | None, str]:
    """Return what is around a system prompt, and the user turn that it is part of."""
    try:
        whole = _rendered(tokenizer, [("system", SYSTEM), *chat])
    except NoTemplateError:
        return None, ""
    if SYSTEM not in whole:
        return None, ""
    before, after = _cut(whole, SYSTEM)
    if ASKED in before:  # in the last user turn
        inner = before.rpartition(user)[2] if user else ""
        return (inner, _cut(after, AGAIN)[0]), "last"
    between = _cut(after, ASKED)[0]
    if before.startswith(head):
        return (before.removeprefix(head), between), "first"
    return (before, between.removesuffix(user)), ""


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> str:
    try:
        messages = [{"role": role, "content": text} for role, text in turns]
        return render(tokenizer, messages, prompt=True)
    except DataError as error:
        raise NoTemplateError(error.message) from error


def _cut(text: str, *words: str) -> list[str]:
    """Split a text at words that must occur once each, in this order."""
    parts = []
    for word in words:
        before, found, text = text.partition(word)
        if not found or word in text:
            raise NoTemplateError("it leaves out, repeats or reorders turns")
        parts.append(before)
    return [*parts, text]


def _common_end(one: str, other: str, added: Sequence[str]) -> str:
    """Return the longest common end of two texts that does not begin inside an added token."""
    size = 0
    while size < min(len(one), len(other)) and one[-1 - size] == other[-1 - size]:
        size += 1
    for text in (one, other):
        for token in added:
            place = text.find(token, max(0, len(text) - size - len(token) + 1))
            if 0 <= place < len(text) - size < place + len(token):
                size = len(text) - place - len(token)
    return one[len(one) - size :]


def _compare(tokenizer: PreTrainedTokenizerBase, found: Pattern) -> None:
    """Refuse a pattern that writes any of several chats otherwise than the chat template."""
    asked: list[Turn] = [("user", "How many?\n\n- two?\n- three?")]
    for extra in ([], [("assistant", "Two."), ("user", "Why {{ two }}?")]):
        asked = [*asked, *extra]
        for system in ([], [("system", "Be brief.\nBe kind.")]):
            turns: list[Turn] = [*system, *asked]
            if system and found.system is None:
                continue
            if found.write(turns) != _rendered(tokenizer, turns):
                raise NoTemplateError("it does more than to write something around the turns")
    longer: list[Turn] = [*asked, ("assistant", "Because."), ("user", "Thanks")]
    if found.write(longer) != _rendered(tokenizer, longer):
        raise NoTemplateError("it treats later turns in another way")


def _literal(text: str) -> str:
    """Return text as a part of a Go template."""
    return text.replace("{{", '{{ "{{" }}')


def modelfile(
    file: str,
    found: Pattern,
    stops: Sequence[str],
    generation: GenerationConfig | None,
    *,
    bos: str,
    context: int,
) -> str:
    """Return an Ollama Modelfile.

    Args:
        file: the name of the GGUF file beside it.
        found: what the chat template writes.
        stops: texts of the tokens that end an answer.
        generation: the model's generation config; greedy if it has none.
        bos: the text of the BOS token if the file says that it is added; else empty.
        context: tokens that the model was trained on.

    Raises:
        NoTemplateError: a text that a Modelfile cannot hold.
    """
    template = found.go(bos)
    if '"""' in template or any('"' in stop or "\n" in stop for stop in stops):
        raise NoTemplateError("it has quotes that a Modelfile cannot hold")
    note = "# The model's chat template drops white space around each turn; Ollama keeps it.\n"
    lines = [f"{note if found.strips else ''}FROM ./{file}", f'TEMPLATE """{template}"""']
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    parameters = {**sampling(generation), "num_ctx": min(context, LONGEST)}
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


def sampling(generation: GenerationConfig | None) -> dict[str, float | int]:
    """Return how answers are drawn, under Ollama's names.

    A setting that is left out has Ollama's default. That of these is not transformers', except for
    `min_p` and `typical_p`, which are off in both.
    """
    names = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty")
    given = {name: getattr(generation, name, None) for name in names}
    found = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}
    found |= {name: value for name, value in given.items() if value is not None}
    penalty = {"repeat_penalty": found.pop("repetition_penalty")}
    if generation is None or not generation.do_sample:
        return {"temperature": 0, **penalty}
    return {**found, **penalty}
