"""IFEval's assets in small: prompts of ours, and models of a few words."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.assets import AssetFile, file_sha256, find_asset, manifest
from kdharness.harness.types import Answer, Finish
from support.answers import make_answer

SENTENCES = {
    "en": "the quick brown fox jumps over the lazy dog and this is what it had for its dinner",
    "de": "der schnelle braune fuchs springt über den faulen hund und das ist was er gern mag",
    "fr": "le renard brun saute par dessus le chien paresseux et voici ce que nous avons vu hier",
}
PROMPTS: list[dict[str, Any]] = [
    {
        "key": 7,
        "prompt": "Name two fruits without a comma, in at least three words.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{}, {"num_words": 3, "relation": "at least"}],
    },
    {
        "key": 8,
        "prompt": "Answer in quotation marks.",
        "instruction_id_list": ["startend:quotation"],
        "kwargs": [{"num_words": None}],
    },
    {
        "key": 9,
        "prompt": "Sag etwas auf Deutsch.",
        "instruction_id_list": ["language:response_language"],
        "kwargs": [{"language": "de"}],
    },
    {
        "key": 10,
        "prompt": "Write two sentences.",
        "instruction_id_list": ["length_constraints:number_sentences"],
        "kwargs": [{"num_sentences": 2.0, "relation": "at least"}],
    },
]

GOOD = {
    "7": "apples and pears",
    "8": '"yes"',
    "9": "der hund und das",
    "10": "Mr. Smith left. He slept.",
}
BAD = {"7": "apples, pears", "8": 'Here:\n"no"', "9": "the fox and the dog", "10": "One only"}


def make(texts: dict[str, str], finish: Finish = Finish.STOP, of: str = "c") -> list[Answer]:
    """Return a checkpoint's answers to items, with ids such as `c/7`."""
    return [
        make_answer(
            text, id=f"{of}/{item}", checkpoint=of, bench="ifeval", item=item, finish=finish
        )
        for item, text in texts.items()
    ]


def write_ifeval(
    assets: Path, patch: pytest.MonkeyPatch, prompts: list[dict[str, Any]] | None = None
) -> None:
    """Write the three assets below `assets`, and patch the manifest to list their checksums."""
    for name in ("ifeval", "language-profiles/profiles", "sentence-model"):
        (assets / name).mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in (PROMPTS if prompts is None else prompts))
    (assets / "ifeval/ifeval_input_data.jsonl").write_text(lines, "utf-8")
    languages = assets / "language-profiles"
    (languages / "messages.properties").write_text("NGram.KANJI_1_0=\\u4F7C\\u6934\n")
    for name in find_asset("language-profiles").files:
        if name.startswith("profiles/"):
            (languages / name).write_text(json.dumps(profile(Path(name).name)), "utf-8")
    sentences = assets / "sentence-model"
    (sentences / "abbrev_types.txt").write_text("mr\ne.g\n")
    (sentences / "collocations.tab").write_text("##number##\tfrench\n")
    (sentences / "sent_starters.txt").write_text("he\n")
    (sentences / "ortho_context.tab").write_text("he\t34\nsmith\t4\nfrench\t4\n")
    for name in ("ifeval", "language-profiles", "sentence-model"):
        listed = {}
        for file in find_asset(name).files:
            path = assets / name / file
            listed[file] = AssetFile(file_sha256(path), path.stat().st_size)
        patch.setitem(manifest(), name, replace(find_asset(name), files=listed))


def profile(code: str) -> dict[str, Any]:
    """Return a language's profile, empty but for the three languages above."""
    text = f" {SENTENCES.get(code, '')} "
    grams = Counter(
        gram
        for length in (1, 2, 3)
        for start in range(len(text))
        if len(gram := text[start : start + length]) == length and " " not in gram[1:-1]
    )
    counts = [sum(n for gram, n in grams.items() if len(gram) == length) for length in (1, 2, 3)]
    return {"name": code, "freq": dict(grams), "n_words": counts}
