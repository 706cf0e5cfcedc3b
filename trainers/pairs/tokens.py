"""Checks of tokenizers, vocabularies, end tokens and chat templates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdharness.harness.chat.template import render
from kdharness.harness.chat.traits import common_start
from kdharness.harness.errors import DataError
from kdharness.trainers.pairs.models import ModelFacts
from kdharness.trainers.pairs.result import PairCheck, note, ok
from kdharness.trainers.teachers.online import check_tokenizers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TWO_TURNS = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Italy?"},
    {"role": "assistant", "content": "Rome."},
]
"""A sample that templates are compared on."""
_PARTS = {
    "normalizer": "normaliser",
    "pre_tokenizer": "pre-tokenizer",
    "added_tokens": "added tokens",
}


def same_tokenizer(student: ModelFacts, teacher: ModelFacts) -> PairCheck:
    """Compare two tokenizers by content.

    Raises:
        ModelError: they give text other tokens.
    """
    shared = check_tokenizers(student.tokenizer, teacher.tokenizer, student.source, teacher.source)
    differing = differing_parts(student.tokenizer, teacher.tokenizer)
    widths = student.limits.vocabulary, teacher.limits.vocabulary
    values = {"shared": shared, "student_embeds": widths[0], "teacher_embeds": widths[1]}
    padded = ""
    if widths[0] != widths[1]:
        padded = (
            f"; {widths[0]:,} and {widths[1]:,} embeddings, compared on the first "
            f"{min(*widths, shared):,}"
        )
    if differing is None:
        detail = f"the same {shared:,} tokens; merges and normaliser cannot be read{padded}"
        return ok("tokenizer", teacher.role, detail, **values)
    if differing:
        return note(
            "tokenizer",
            teacher.role,
            f"the same {shared:,} tokens, but other {', '.join(differing)}: the teacher reads the "
            f"student's tokens, which its own tokenizer would split in another way{padded}",
            "if the teacher is right, save its tokenizer with the student",
            **values,
        )
    detail = f"the same {shared:,} tokens, merges, added tokens and normaliser{padded}"
    return ok("tokenizer", teacher.role, detail, **values)


def differing_parts(
    one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase
) -> list[str] | None:
    """Return the parts in which two tokenizers differ; None if one of them cannot be read."""
    inner = [getattr(tokenizer, "backend_tokenizer", None) for tokenizer in (one, other)]
    if None in inner:
        return None
    first, second = (json.loads(backend.to_str()) for backend in inner if backend is not None)
    merges = first["model"].get("merges") != second["model"].get("merges")
    parts = [text for name, text in _PARTS.items() if first.get(name) != second.get(name)]
    return (["merges"] if merges else []) + parts


def vocabulary(model: ModelFacts) -> PairCheck:
    """Compare a model's tokenizer with the size of its embedding."""
    tokens, embeds = len(model.tokenizer), model.limits.vocabulary
    values = {"tokens": tokens, "embeds": embeds}
    if tokens > embeds:
        return note(
            "vocabulary",
            model.role,
            f"the tokenizer has {tokens:,} tokens, but the model embeds only {embeds:,}; the rows "
            "use none of the others",
            "resize the embedding (resize_token_embeddings) and save the model",
            **values,
        )
    unused = f", {embeds - tokens:,} of them unused" if embeds > tokens else ""
    detail = f"{tokens:,} tokens, {embeds:,} embeddings{unused}"
    return ok("vocabulary", model.role, detail, **values)


def end_tokens(model: ModelFacts) -> PairCheck:
    """Compare where a model's own template ends an answer with where generation stops."""
    declared = _declared(model)
    values: dict[str, object] = {name: sorted(ids) for name, ids in model.declared.items()}
    values["template"] = model.turn_end
    if not declared:
        return note(
            "end token",
            model.role,
            "neither tokenizer nor generation config declares a token that ends generation",
            "set eos_token in the tokenizer and eos_token_id in generation_config.json",
            **values,
        )
    if model.turn_end is not None and model.turn_end not in model.stops:
        return note(
            "end token",
            model.role,
            f"its chat template ends answers with {model.names([model.turn_end])}, where "
            f"generation does not stop; it stops at {declared}",
            "add that token's id to eos_token_id in generation_config.json",
            **values,
        )
    own = model.declared.get("tokenizer", set())
    generating = model.declared.get("generation_config.json")
    if generating and not own <= generating:
        return note(
            "end token",
            model.role,
            f"tokenizer and generation config disagree: {declared}",
            "programs that read only one of them stop elsewhere: make them agree",
            **values,
        )
    template = ", where its chat template ends answers" if model.turn_end is not None else ""
    return ok("end token", model.role, f"stops at {declared}{template}", **values)


def _declared(model: ModelFacts) -> str:
    """Return where which end tokens are declared: `'</s>' (tokenizer, config.json)`."""
    files: dict[str, list[str]] = {}
    for name, ids in model.declared.items():
        files.setdefault(model.names(ids), []).append(name)
    return "; ".join(f"{names} ({', '.join(where)})" for names, where in files.items())


def end_of_answers(end: int | None, student: ModelFacts, teacher: ModelFacts) -> PairCheck:
    """Compare the token that ends the rows' answers with those that a teacher ends with.

    Args:
        end: the token, or None if the template of the rows has none.
        student: whose tokenizer encodes the rows.
        teacher: teaches them.
    """
    ends = teacher.stops | ({teacher.turn_end} if teacher.turn_end is not None else set())
    name = teacher.names(ends)
    if end is None:
        return note(
            "end of answers",
            teacher.role,
            f"the rows' template ends answers with no token, but the teacher stops at {name}",
            "use a template whose end of turn is one of the teacher's end tokens",
        )
    values = {"rows": end, "teacher": sorted(ends)}
    ours = student.names([end])
    if end in ends:
        return ok("end of answers", teacher.role, f"rows and teacher end with {ours}", **values)
    return note(
        "end of answers",
        teacher.role,
        f"the rows' answers end with {ours}, but the teacher stops at {name}: where an answer "
        "ends, it teaches the student to go on",
        "use the teacher's chat template (data.chat_template), or a teacher that was trained with "
        "the rows' template",
        **values,
    )


def templates(rows: PreTrainedTokenizerBase, teacher: ModelFacts) -> PairCheck:
    """Compare the template of the rows with a teacher's own on a chat of two turns."""
    if not teacher.tokenizer.chat_template:
        return note(
            "template",
            teacher.role,
            "the teacher has no chat template: it has seen no chats like the rows",
            "prefer the instruct model of its family as the teacher",
        )
    texts = []
    for name, tokenizer in (("rows'", rows), ("teacher's", teacher.tokenizer)):
        try:
            texts.append(render(tokenizer, TWO_TURNS, prompt=False))
        except DataError as error:
            return note(
                "template",
                teacher.role,
                f"not compared: the {name} template refuses a chat of two turns: {error.message}",
                "check the template with kdharness data show",
            )
    ours, theirs = texts
    if ours == theirs:
        same = rows.chat_template == teacher.tokenizer.chat_template
        how = "the same" if same else "written differently, but the same text for two turns"
        return ok("template", teacher.role, f"rows and teacher: {how}")
    start = len(common_start(ours, theirs))
    return note(
        "template",
        teacher.role,
        f"the rows' template differs from the teacher's: {_at(ours, start)} in the rows, "
        f"{_at(theirs, start)} in the teacher's",
        "set data.chat_template to a file with the teacher's template, or check that the "
        "difference is meant",
    )


def _at(text: str, start: int) -> str:
    """Return a few characters from where two texts part."""
    return repr(text[max(start - 8, 0) : start + 24])


def tuning(student: ModelFacts, teachers: list[ModelFacts]) -> Iterator[PairCheck]:
    """Yield whether each model is a base or an instruct model, and whether that fits."""
    mine, why = student.tuning
    yield ok("base or instruct", student.role, f"{mine}: {why}", tuning=mine)
    for teacher in teachers:
        theirs, why = teacher.tuning
        if (mine, theirs) == ("base", "instruct"):
            yield note(
                "base or instruct",
                teacher.role,
                f"instruct, but the student is a base model, which stops at "
                f"{student.names(student.stops)}: it has to learn the turns and their end",
                "start from the instruct model of the student's family, or make sure that every "
                "row ends with a labelled end token",
                tuning=theirs,
            )
        elif (mine, theirs) == ("instruct", "base"):
            yield note(
                "base or instruct",
                teacher.role,
                f"base ({why}), but the student is an instruct model, which it can unteach to "
                "answer and to stop",
                "use the instruct model of the teacher's family",
                tuning=theirs,
            )
        else:
            yield ok("base or instruct", teacher.role, f"{theirs}: {why}", tuning=theirs)
