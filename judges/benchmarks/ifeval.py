"""IFEval: 541 prompts with instructions that programs check (Zhou et al. 2023, arXiv:2311.07911).

An answer has one judgment per instruction and reading, strict and loose, and one for the prompt
as a whole. Its prompts, and the models that find sentences and languages, are pulled assets.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

from kdharness.harness.assets import asset_file, find_asset, status
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import AssetError, DataError
from kdharness.harness.paths import Paths
from kdharness.harness.types import Answer, Finish, Item, Judgment, JudgmentStatus, digest
from kdharness.harness.util.untrusted import read_text
from kdharness.judges.audit.gaming import never_ended
from kdharness.judges.benchmarks.base import Benchmark, read_jsonl, revision_flags, subset
from kdharness.judges.scoring.ifeval import KINDS, Checked, Instruction, check_answer
from kdharness.judges.scoring.ifeval_outcome import Tools, read_arguments
from kdharness.judges.scoring.ifeval_scores import (
    INST_LOOSE,
    INST_STRICT,
    PROMPT_LOOSE,
    PROMPT_STRICT,
)
from kdharness.judges.scoring.languages import LanguageModel
from kdharness.judges.scoring.sentences import SentenceModel
from kdharness.judges.scoring.verdicts import cut_thinking

PROMPTS = ("ifeval", "ifeval_input_data.jsonl")
LANGUAGES, SENTENCES = "language-profiles", "sentence-model"
ASSETS = (PROMPTS[0], LANGUAGES, SENTENCES)
SENTENCE_FILES = (
    "abbrev_types.txt",
    "collocations.tab",
    "sent_starters.txt",
    "ortho_context.tab",
)
ANSWER_TOKENS = 1280
EXACT = "exact"
ANOTHER_LANGUAGE = "language:response_language"


class IFEval(Benchmark):
    """Prompts whose instructions are checked by programs."""

    name: ClassVar[str] = "ifeval"
    headline: ClassVar[str] = PROMPT_STRICT

    def __init__(
        self,
        items: Sequence[Item],
        instructions: Mapping[str, tuple[Instruction, ...]],
        assets: Path,
        *,
        flags: Sequence[str] = (),
        total: int | None = None,
    ) -> None:
        asked = [[item.id, [part.identity for part in instructions[item.id]]] for item in items]
        fixed = [self.name, asked, model_files()]
        super().__init__(items, fixed=fixed, flags=flags, total=total)
        self.instructions = instructions
        self._assets = assets

    @classmethod
    def load(cls, paths: Paths, config: EvalConfig, source: str = "") -> IFEval:
        """Load the prompts with their instructions.

        Raises:
            AssetError: an asset has not been pulled, or a file of it is missing or has changed.
            DataError: a line without a prompt, or with instructions that cannot be checked.
        """
        # Answers are generated before they are checked: what could fail then is read now. A model
        # that has changed would still give scores, but others.
        states = {name: status(paths, find_asset(name), verify=True) for name in ASSETS}
        unusable = [name for name, state in states.items() if state != "pulled"]
        if unusable:
            raise AssetError(
                ", ".join(f"{name} is {states[name]}" for name in unusable),
                hint=f"run: kdharness data pull {' '.join(unusable)}",
            )
        path = asset_file(paths, *PROMPTS)
        read = [_prompt(row, f"{path}, line {n}", config) for n, row in read_jsonl(path)]
        items = subset([item for item, _ in read], config.limit)
        flags = revision_flags(config, items, len(read), judged=False)
        instructions = {item.id: asked for item, asked in read}
        return cls(items, instructions, paths.assets, flags=flags, total=len(read))

    def exact(self, answers: Sequence[Answer]) -> list[Judgment]:
        """Return the judgments of each answer: of its instructions, and of the whole prompt.

        A model's reasoning is not part of its answer. A missing answer is a failure, not a 0.
        """
        tools = load_tools(self._assets)
        return [
            judgment
            for answer in answers
            if answer.item in self._by_id
            for judgment in self._judgments(answer, tools)
        ]

    def _judgments(self, answer: Answer, tools: Tools) -> list[Judgment]:
        item, asked = self.item(answer.item), self.instructions[answer.item]
        text = cut_thinking(answer.text)
        failed = answer.finish is Finish.ERROR
        checked = None if failed else check_answer(text, asked, tools)
        cut_off = answer.finish is Finish.LENGTH or never_ended(answer.text, text)
        return [
            Judgment(
                id=digest(EXACT, metric, answer.checkpoint, self.revision, number, answer.id),
                checkpoint=answer.checkpoint,
                bench=self.label,
                revision=self.revision,
                item=item.id,
                turn=answer.turn,
                category=category,
                judge=EXACT,
                metric=metric,
                status=JudgmentStatus.FAILED if followed is None else JudgmentStatus.OK,
                created=time.time(),
                value=None if followed is None else float(followed),
                answer=answer.id,
                order=number,
                raw=said,
                error="no answer" if followed is None else "",
                info={"truncated": True} if cut_off else {},
            )
            for metric, category, number, followed, said in outcomes(item, asked, checked)
        ]


def outcomes(
    item: Item, asked: Sequence[Instruction], checked: Sequence[Checked] | None
) -> list[tuple[str, str, int, bool | None, str]]:
    """Return (metric, category, number of the instruction, followed, words) of every judgment.

    The prompt as a whole has number 0. Without an answer nothing is followed or not.
    """
    if checked is None:
        whole: list[tuple[str, bool | None]] = [(PROMPT_STRICT, None), (PROMPT_LOOSE, None)]
        parts: Sequence[Checked | None] = [None] * len(asked)
    else:
        whole = [
            (PROMPT_STRICT, all(result.strict.followed for result in checked)),
            (PROMPT_LOOSE, all(result.loose.followed for result in checked)),
        ]
        parts = checked
    found: list[tuple[str, str, int, bool | None, str]] = []
    for number, (instruction, result) in enumerate(zip(asked, parts, strict=True), 1):
        strict = result.strict.followed if result else None
        loose = result.loose.followed if result else None
        said = strict_words(instruction, result)
        found.append((INST_STRICT, instruction.kind, number, strict, said))
        found.append((INST_LOOSE, item.category, number, loose, loose_words(result)))
    return found + [(metric, item.category, 0, followed, "") for metric, followed in whole]


def strict_words(instruction: Instruction, checked: Checked | None) -> str:
    """Return what an instruction asks for and what was found, for transcripts."""
    asked = f"{instruction.kind}: {instruction.asks}"
    return f"{asked}; found: {checked.strict.found}" if checked else asked


def loose_words(checked: Checked | None) -> str:
    """Return what has to be left out for an instruction to be followed."""
    return f"followed without {checked.variant}" if checked and checked.variant else ""


def _prompt(
    row: Mapping[str, object], where: str, config: EvalConfig
) -> tuple[Item, tuple[Instruction, ...]]:
    """Read one line of the file; arguments that are null count as missing."""
    kinds, arguments = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(row.get("prompt"), str) or "key" not in row:
        raise DataError("missing key or prompt", where=where)
    if not isinstance(kinds, list) or not isinstance(arguments, list):
        raise DataError("instruction_id_list and kwargs must be lists", where=where)
    if not kinds:
        raise DataError("instruction_id_list is empty", where=where)
    if len(kinds) != len(arguments):
        raise DataError(
            f"instruction_id_list has {len(kinds)} entries, kwargs has {len(arguments)}",
            where=where,
        )
    asked = tuple(
        _instruction(kind, given, where) for kind, given in zip(kinds, arguments, strict=True)
    )
    item = Item(
        id=str(row["key"]),
        category=asked[0].kind.partition(":")[2],
        turns=(str(row["prompt"]),),
        max_new_tokens=config.max_new_tokens or ANSWER_TOKENS,
        info={"any_language": any(i.kind == ANOTHER_LANGUAGE for i in asked)},
    )
    return item, asked


def _instruction(kind: object, given: object, where: str) -> Instruction:
    if not isinstance(kind, str) or kind not in KINDS:
        raise DataError(
            f"unknown kind of instruction: {kind!r}",
            where=where,
            hint=f"known: {', '.join(KINDS)}",
        )
    if not isinstance(given, Mapping):
        raise DataError(f"the arguments of {kind} must be an object", where=where)
    try:
        instruction = Instruction(kind, read_arguments(KINDS[kind], given))
    except ValueError as error:
        raise DataError(f"{kind}: {error}", where=where) from error
    language = instruction.arguments.language
    if language and f"profiles/{language}" not in find_asset(LANGUAGES).files:
        raise DataError(f"{kind}: unsupported language {language!r}", where=where)
    return instruction


def model_files() -> list[list[str]]:
    """Return [asset, file, sha256] of the models' files: part of what the scores depend on."""
    return sorted(
        [asset, name, file.sha256]
        for asset in (LANGUAGES, SENTENCES)
        for name, file in find_asset(asset).files.items()
    )


@cache
def load_tools(assets: Path) -> Tools:
    """Load the models that find sentences and languages from the folder of assets.

    Raises:
        AssetError: a file is missing or damaged.
    """

    def read(asset: str, name: str) -> str:
        return read_text(assets / asset / name, f"a file of {asset}", error=AssetError)

    profiles = sorted(name for name in find_asset(LANGUAGES).files if name.startswith("profiles/"))
    try:
        return Tools(
            LanguageModel.parse(
                [read(LANGUAGES, name) for name in profiles], read(LANGUAGES, "messages.properties")
            ),
            SentenceModel.parse(*(read(SENTENCES, name) for name in SENTENCE_FILES)),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise AssetError(
            f"{LANGUAGES} or {SENTENCES} is damaged: {error}",
            hint=f"pull them again: kdharness data pull {LANGUAGES} {SENTENCES}",
        ) from error
