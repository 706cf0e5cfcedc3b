"""Properties of a chat template, determined once by rendering small chats."""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdharness.harness.chat.probes import Located, locate
from kdharness.harness.chat.rendering import (
    NOTHING,
    REASONING,
    TOOL,
    Extras,
    render,
    template_source,
)
from kdharness.harness.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TemplateTraits:
    """How a template renders chats.

    `end_last` closes the last answer and `end_mid` one that other turns follow (texts, with the
    whitespace before them; empty: nothing does). `end_token` is the added token in `end_last`.
    `after` is what the template adds after `end_last`: an end of the whole chat, or the next
    turn's beginning. `header` is what a generation prompt adds; `unopened` is what precedes an
    answer if it adds nothing. `closed`: an answer ends where its rendering without later turns
    ends.
    """

    end_last: str = ""
    end_mid: str = ""
    end_token: str = ""
    after: str = ""
    header: str = ""
    unopened: str = ""
    closed: bool = True
    reasoning: bool = False
    drops_system: bool = False


_KNOWN: weakref.WeakKeyDictionary[Any, dict[Any, TemplateTraits]] = weakref.WeakKeyDictionary()
_USER, _ANSWER = {"role": "user", "content": "Ab"}, {"role": "assistant", "content": "Cd"}


def template_traits(tokenizer: PreTrainedTokenizerBase, extras: Extras = NOTHING) -> TemplateTraits:
    """Return what the tokenizer's template does, determined once on small chats.

    Tokenizers may have a separate template for chats with tools.
    """
    key = (template_source(tokenizer, extras), len(tokenizer))
    known = _KNOWN.setdefault(tokenizer, {})
    if key not in known:
        separate = key[0] != template_source(tokenizer)
        known[key] = _study(tokenizer, Extras([TOOL]) if separate else _wanted(tokenizer))
    return known[key]


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Return a regex of every added token, special or not, that is not just whitespace."""
    texts = {str(token.content) for token in tokenizer.added_tokens_decoder.values()}
    texts = {text for text in texts if text.strip()}
    longest = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)) if longest else r"(?!)")


def token_marks(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Return a regex of added tokens, and of text that is written like one.

    A base model's tokenizer often lacks the tokens of the template it is given.
    """
    return re.compile(rf"{added_tokens(tokenizer).pattern}|<\|[^<>|\s]{{1,40}}\|>")


def _study(tokenizer: PreTrainedTokenizerBase, extras: Extras) -> TemplateTraits:
    tokens = token_marks(tokenizer)
    located: tuple[str, Located] | None = None
    size = 0
    for chat in ([_USER, _ANSWER, _USER, _ANSWER], [_USER, _ANSWER]):
        located = locate(tokenizer, chat, None, prompt=False, extras=extras)
        size = len(chat)
        if located is not None:
            break
    if located is None or located[1].whole(size - 1) is None:
        return TemplateTraits(reasoning=_shows_reasoning(tokenizer, extras))
    text, places = located
    tail = text[_end(places, size - 1) :]
    prompts = _prompts(tokenizer, extras)
    asked = _Asked(text, places, prompts)
    between = tail
    if size > 2 and places.whole(1) is not None:
        start = _end(places, 1)
        between = text[start : places.after(start, 1, len(text))]
    last = _last_end(tokens, tail, between, asked)
    middle = _mid_end(tokens, last, tail, between, asked)
    closing = list(added_tokens(tokenizer).finditer(last))
    return TemplateTraits(
        end_last=last,
        end_mid=middle,
        end_token=closing[-1].group() if closing and closing[-1].end() == len(last) else "",
        after=tail[len(last) :].rstrip() if last else "",
        header=_header(tokens, prompts),
        unopened=_unopened(prompts, text, places),
        closed=tail.rstrip() == last.rstrip() and (bool(last) or not middle),
        reasoning=_shows_reasoning(tokenizer, extras),
        drops_system=_drops_system(tokenizer, extras),
    )


def _wanted(tokenizer: PreTrainedTokenizerBase) -> Extras:
    """Return the extras the template needs: a tool, if it renders no chat without one."""
    given = Extras([TOOL])
    for extras in (Extras(), given):
        try:
            render(tokenizer, [_USER, _ANSWER], prompt=False, extras=extras)
        except DataError:
            continue
        return extras
    return Extras()


def _end(places: Located, index: int) -> int:
    whole = places.whole(index)
    return whole[1] if whole else 0


@dataclass(frozen=True)
class _Asked:
    """The text around a user's words: before the first, and after the last of a chat."""

    text: str
    places: Located
    prompts: tuple[str, str] | None

    def opens(self, between: str) -> bool:
        """Return whether a text is what introduces a user turn."""
        whole = self.places.whole(0)
        before = self.text[: whole[0]] if whole else ""
        return bool(between.strip()) and before.endswith(between.lstrip())

    @property
    def behind(self) -> str:
        """What follows a user's words when they come last."""
        bare = self.prompts[0] if self.prompts else ""
        return bare[bare.rfind(_USER["content"]) :]


def _last_end(tokens: re.Pattern[str], tail: str, between: str, asked: _Asked) -> str:
    """Return how the last answer is closed."""
    if between.startswith(tail.rstrip()):
        return tail.rstrip()
    # The tail closes the chat (Phi 3) or always opens the next turn (early Llama 3): the end of
    # turn is the first token, or extends to the one that also closes a user's words (Cohere's).
    shared = whole_tokens(tokens, tail, common_start(tail, between))
    closing = tokens.search(asked.behind)
    position = shared.find(closing.group()) if closing else -1
    if closing and position >= 0:
        return tail[: position + len(closing.group())]
    first = tokens.search(tail)
    return tail[: first.end()] if first else common_start(tail, between)


def _mid_end(tokens: re.Pattern[str], last: str, tail: str, between: str, asked: _Asked) -> str:
    """Return how an answer is closed that other turns follow."""
    if last and between.startswith(last):
        return last
    token = tokens.search(between)
    # The first token after an answer may be its end, or the next role's beginning.
    if (
        token
        and not between[: token.start()].strip()
        and (token.group() in asked.behind or not asked.opens(between))
    ):
        return between[: token.end()]
    return whole_tokens(tokens, between, common_start(tail, between)).rstrip()


def _prompts(tokenizer: PreTrainedTokenizerBase, extras: Extras) -> tuple[str, str] | None:
    """Render a user's question without and with a generation prompt; None if refused."""
    try:
        bare = render(tokenizer, [_USER], prompt=False, extras=extras)
        return bare, render(tokenizer, [_USER], prompt=True, extras=extras)
    except DataError:
        return None


def _header(tokens: re.Pattern[str], prompts: tuple[str, str] | None) -> str:
    """Return what a generation prompt adds to a chat that ends with a user turn."""
    bare, opened = prompts or ("", "")
    return opened[len(whole_tokens(tokens, opened, common_start(opened, bare))) :]


def _unopened(prompts: tuple[str, str] | None, text: str, places: Located) -> str:
    """Return what a template without a generation prompt writes before an answer."""
    bare, opened = prompts or ("", "")
    whole = places.whole(1)
    if not bare or bare != opened or whole is None or not text.startswith(bare):
        return ""
    return text[len(bare) : whole[0]].partition("<think")[0]


def _shows_reasoning(tokenizer: PreTrainedTokenizerBase, extras: Extras) -> bool:
    """Return whether reasoning beside the last answer's content is rendered."""
    for head in ([_USER], [{"role": "system", "content": "Ef"}, _USER]):
        chat = [*head, {**_ANSWER, REASONING[0]: "thought"}]
        located = locate(tokenizer, chat, None, prompt=False, extras=extras)
        if located is not None:
            return len(located[1].words[-1]) > 1
    return False


def _drops_system(tokenizer: PreTrainedTokenizerBase, extras: Extras) -> bool:
    """Return whether a system turn is silently dropped when the chat ends with an answer."""
    chat = [{"role": "system", "content": "Ef"}, _USER, _ANSWER]
    located = locate(tokenizer, chat, None, prompt=False, extras=extras)
    return located is not None and not located[1].words[0]


def common_start(one: str, other: str) -> str:
    """Return the common prefix of two texts."""
    size = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        size += 1
    return one[:size]


def whole_tokens(tokens: re.Pattern[str], text: str, part: str) -> str:
    """Return `part`, a prefix of `text`, without an incomplete added token at its end."""
    for token in tokens.finditer(text):
        if token.start() < len(part) < token.end():
            return part[: token.start()]
    return part
