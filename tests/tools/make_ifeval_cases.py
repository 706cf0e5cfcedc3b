"""Write tests/fixtures/ifeval/cases.jsonl: what two other implementations say about our texts.

    python tests/tools/make_ifeval_cases.py LM_EVAL EVALSCOPE

with the two wheels (lm_eval 0.4.13, evalscope 1.14.1) unpacked in folders, in an environment of
its own that has nltk 3.10.4, langdetect 1.0.9, immutabledict and packaging, and NLTK_DATA with
`punkt_tab`. A case is kept only if both agree. Texts and arguments are ours or drawn from a seed.
"""

from __future__ import annotations

import importlib
import json
import logging
import random
import re
import sys
import types
from pathlib import Path

CASES = Path(__file__).parents[1] / "fixtures/ifeval/cases.jsonl"
PER_KIND = 36
ARGUMENTS = {
    "keywords:existence": [{"keywords": ["story", "War"]}, {"keywords": ["end"]}],
    "keywords:frequency": [
        {"keyword": "story", "frequency": 2, "relation": "at least"},
        {"keyword": "end", "frequency": 1, "relation": "less than"},
    ],
    "keywords:forbidden_words": [{"forbidden_words": ["story", "end"]}],
    "keywords:letter_frequency": [
        {"letter": "Q", "let_frequency": 2, "let_relation": "at least"},
        {"letter": "e", "let_frequency": 5, "let_relation": "less than"},
    ],
    "language:response_language": [{"language": code} for code in ("en", "ru", "hi", "ko", "fr")],
    "length_constraints:number_sentences": [
        {"num_sentences": count, "relation": relation}
        for count in (2, 3, 5)
        for relation in ("at least", "less than")
    ],
    "length_constraints:number_words": [
        {"num_words": 8, "relation": "at least"},
        {"num_words": 12, "relation": "less than"},
    ],
    "length_constraints:number_paragraphs": [{"num_paragraphs": n} for n in (1, 2, 3)],
    "length_constraints:nth_paragraph_first_word": [
        {"num_paragraphs": 2, "nth_paragraph": n, "first_word": "Story"} for n in (1, 2)
    ],
    "detectable_content:number_placeholders": [{"num_placeholders": n} for n in (1, 2)],
    "detectable_content:postscript": [
        {"postscript_marker": mark} for mark in ("P.S.", "P.P.S", "Note")
    ],
    "detectable_format:number_bullet_lists": [{"num_bullets": n} for n in (1, 2, 3)],
    "detectable_format:constrained_response": [{}],
    "detectable_format:number_highlighted_sections": [{"num_highlights": n} for n in (1, 2, 3)],
    "detectable_format:multiple_sections": [
        {"section_spliter": mark, "num_sections": n} for mark in ("Section", "Day") for n in (1, 2)
    ],
    "detectable_format:json_format": [{}],
    "detectable_format:title": [{}],
    "combination:two_responses": [{}],
    "combination:repeat_prompt": [{"prompt_to_repeat": " Tell a story. "}],
    "startend:end_checker": [{"end_phrase": " The End "}, {"end_phrase": "story."}],
    "startend:quotation": [{}],
    "change_case:capital_word_frequency": [
        {"capital_frequency": n, "capital_relation": relation}
        for n in (2, 4)
        for relation in ("at least", "less than")
    ],
    "change_case:english_capital": [{}],
    "change_case:english_lowercase": [{}],
    "punctuation:no_comma": [{}],
}
PARTS = r"""story|Story|STORY.|war|DON'T|CANNOT|I'M|O'NEIL|'TIS|we're|the end|The End| |  |\n|\n\n
\r\n|\t|***|******|*a*|**b**|* item|- item|*|-|--|[x]|[a b]|[]|<<t>>|<< >>|P.S.|p. p. s
P.S|Note|Section 1|Section2|SECTION 3|Day 1|1.|.|!|?|...|"|'|“|”|{"a": 1}
[1, {"b": null}]|```json|```|NaN|My answer is yes.|My answer is no|my answer is maybe.|q
Q|é|ß|日本語です。|हिन्दी में लिखा है|Привет, мир|안녕하세요 여러분|Bonjour à tous les amis
This is plain English.|Mr. Smith|U.S. troops|e.g. this|a, b|，|1,000|x²|½|https://a.b/c?d
me@x.org|J. Doe|5. Then|Tell a story.|tell a story.|. . .|?!|"Quoted." He"""

WHOLE = [
    "",
    " \n\t",
    '"',
    '""',
    '" "',
    "***",
    "******",
    "a******a",
    "a******b",
    "******a******b******",
    "a****** ******b",
    "***a***b***",
    "a\n***\nb\n\n***\n",
    "- a\n* c\n** d\n  * e",
    "*\n- x",
    "<<<a>>>",
    "<<a\nb>>",
    "<<a>>>>",
    "[a\nb] [c]",
    '```json\n{"a": 1}\n```',
    '```JSON\n{"a": 1}```',
    'Here:\n```json\n{"a": 1}\n```',
    '{"a": 1}\n```',
    "null",
    '{"a": 1,}',
    "story\n\nstory",
    "a\n\n\n\nstory, told",
    "'\"Story's end\n\nb",
    'x The end"',
    "The end.",
    "THIS IS AN ENGLISH SENTENCE. EVERY LETTER IS A CAPITAL!!!",
    "this is an english sentence in lower case only",
    "1234 !!!",
]


def draw(kind: str, number: int) -> tuple[str, dict[str, object]]:
    """Return a text and arguments for one case."""
    chance = random.Random(f"{kind} {number}")
    arguments = chance.choice(ARGUMENTS[kind])
    if number < len(WHOLE):
        return WHOLE[number], arguments
    parts = [
        re.sub(r"\\([nrt])", lambda match: {"n": "\n", "r": "\r", "t": "\t"}[match[1]], part)
        for part in re.split(r"[|\n]", PARTS)
    ]
    text = "".join(
        chance.choice(parts) + chance.choice(["", " ", " ", "\n"])
        for _ in range(chance.randint(1, 12))
    )
    turn = {
        "change_case:english_capital": str.upper,
        "change_case:english_lowercase": str.lower,
        "startend:quotation": lambda text: f'"{text}"',
        "length_constraints:nth_paragraph_first_word": lambda text: f"Story {text}\n\nstory, told",
    }
    return turn[kind](text) if kind in turn and chance.random() < 0.7 else text, arguments


def registry(folder: str, package: str) -> types.ModuleType:
    """Import an implementation; evalscope's helper that downloads is replaced."""
    sys.path.insert(0, folder)
    for name in ("evalscope.utils", "evalscope.utils.resource_utils"):
        stub = sys.modules.setdefault(name, types.ModuleType(name))
        stub.__dict__["check_nltk_data"] = lambda *_: None
    return importlib.import_module(f"{package}.instructions_registry")


def main(lm_eval: str, evalscope: str) -> None:
    """Ask both, and write the cases on which they agree, as many of each verdict as possible."""
    logging.disable(logging.CRITICAL)
    langdetect = importlib.import_module("langdetect")
    langdetect.DetectorFactory.seed = 0
    both = [
        registry(lm_eval, "lm_eval.tasks.ifeval"),
        registry(evalscope, "evalscope.benchmarks.ifeval"),
    ]
    lines = []
    for kind in ARGUMENTS:
        room = {True: PER_KIND // 2, False: PER_KIND // 2}
        for number in range(600):
            text, arguments = draw(kind, number)
            said = set()
            for implementation in both:
                check = implementation.INSTRUCTION_DICT[kind](kind)
                check.build_description(**arguments)
                said.add(bool(text.strip()) and bool(check.check_following(text)))
            if len(said) == 1 and room[verdict := said.pop()]:
                room[verdict] -= 1
                lines.append(json.dumps([kind, arguments, text, verdict]))
    CASES.parent.mkdir(parents=True, exist_ok=True)
    CASES.write_text("".join(line + "\n" for line in lines), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
