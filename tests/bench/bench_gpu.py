"""What a GPU makes of it: `make gpu`, or `python tests/bench/bench_gpu.py [--out FILE]`.

Nothing is downloaded: models have random weights at real shapes. First every kernel and short
trainings are compared with the CPU; then the table, as Markdown with the card's name. `--tiny`
runs all of it at toy shapes on any device, for a test of this script alone.

Times are medians after a warm-up. A step is forward, backward and AdamW in mixed precision, with
gradient checkpointing; half of the tokens are labelled. MFU counts the floor's FLOPs
(docs/method.md#flops) against the card's dense bf16 peak.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu_cases import TOY, Report, case_of, fresh_memory, kernels_here, seconds, wait
from gpu_checks import (
    check_attention,
    check_decoding,
    check_heads,
    check_rounding,
    check_runs,
    check_trainings,
)

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.precision import precision_of
from kdharness.harness.models.lm_head import Head
from kdharness.harness.paths import Paths, find_paths
from kdharness.harness.runs.estimate import model_size
from kdharness.harness.runs.memory import plan_memory
from kdharness.harness.types import GenerationRequest
from kdharness.trainers.flops import attention_loss_flops, floor_flops, shape_of
from kdharness.trainers.kernels import Kernels
from kdharness.trainers.losses.fused import Mix, fused_loss
from kdharness.trainers.precision import autocast
from kdharness.trainers.tools.selfcheck import Models, fused_step

PEAK = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16 operations per second by a part of the card's name (vendors' data sheets)."""
BILLION: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
SEVEN: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def measure_head(report: Report) -> None:
    """Time the head's loss against the bare products, plain torch, and Liger where installed."""
    rows, width, vocab = (64, 32, 512) if report.tiny else (8192, 4096, 128_256)
    device, dtype = report.device, torch.bfloat16
    hidden = torch.randn(rows, width, device=device, dtype=dtype, requires_grad=True)
    weight = (torch.randn(vocab, width, device=device, dtype=dtype) / width**0.5).requires_grad_()
    taught, head = torch.randn_like(hidden).detach(), Head(weight.detach())

    def clear() -> None:
        hidden.grad = weight.grad = None

    def bare() -> None:
        clear()
        logits = hidden @ weight.t()
        with torch.no_grad():
            taught @ head.weight.t()
        logits.backward(logits.detach())

    def ours(kernels: Kernels) -> None:
        clear()
        loss, _ = fused_loss(
            hidden, Head(weight), mix=Mix(), teacher=(head, taught), inner=kernels.chunk_loss
        )
        loss.backward()

    floor = seconds(bare, device)
    name = f"head loss and gradients, {rows} × {width} × {vocab}, bf16"
    for kernels in kernels_here(device):
        taken = seconds(partial(ours, kernels), device)
        against = f"bare products {1e3 * floor:.1f} ms: {taken / floor:.2f} ×"
        report.row(f"{name}, {kernels.name}", f"{1e3 * taken:.1f} ms", against, "≤ 1.2 ×")
    if find_spec("liger_kernel") is None or device.type != "cuda":
        report.row(f"{name}, Liger", "not measured: liger-kernel is not installed")
        return
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    jsd = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0)
    labels = torch.zeros(rows, dtype=torch.long, device=device)

    def liger() -> None:
        clear()
        jsd(hidden, weight, taught, head.weight, labels).backward()

    report.row(f"{name}, Liger", f"{1e3 * seconds(liger, device):.1f} ms")


def step_of(
    report: Report, shape: Mapping[str, Any], method: str, rows: int, width: int, kernels: Kernels
) -> tuple[float, float, Models]:
    """Return (seconds of a whole step, of one without the attention loss, the case)."""
    precision = precision_of("mixed", "auto", lora=False, has_bf16=True)
    models = case_of(
        shape,
        method,
        rows,
        width,
        report.device,
        kernels,
        teacher_dtype=torch.bfloat16,
        checkpointing=True,
    )
    models.student.train()
    fused = report.device.type == "cuda"
    optimizer = torch.optim.AdamW(models.student.parameters(), lr=1e-6, fused=fused)
    mix = Mix(kl_weight=0.0, ce_weight=1.0) if method == "sft" else Mix()

    def step(weight: float) -> None:
        optimizer.zero_grad(set_to_none=False)
        with autocast(precision, report.device.type):
            loss = fused_step(models, method, mix, weight)
        loss.backward()
        optimizer.step()

    repeats = 2 if report.tiny else 5
    whole = seconds(lambda: step(1.0 if method == "kd" else 0.0), report.device, repeats)
    less = seconds(lambda: step(0.0), report.device, repeats) if method == "kd" else whole
    return whole, less, models


def measure_steps(report: Report) -> None:
    """Time steps of every method, and compare the peak memory with the plan."""
    peak = 0.0
    if report.device.type == "cuda":
        card = torch.cuda.get_device_name(report.device)
        peak = next((flops for part, flops in PEAK.items() if part in card), 0.0)
    shapes = {"1B": (BILLION, 4, 2048), "7B-like, 4 layers of 32": (SEVEN, 4, 2048)}
    if report.tiny:
        shapes = {"toy": (TOY, 2, 64)}
    for label, (shape, rows, width) in shapes.items():
        for method in ("sft", "kd", "dae"):
            for kernels in kernels_here(report.device):
                if method == "sft" and kernels.name != "reference":
                    continue
                with fresh_memory(report.device):
                    _measure_step(report, label, dict(shape), method, rows, width, kernels, peak)


def _measure_step(
    report: Report,
    label: str,
    shape: dict[str, Any],
    method: str,
    rows: int,
    width: int,
    kernels: Kernels,
    peak: float,
) -> None:
    whole, less, models = step_of(report, shape, method, rows, width, kernels)
    layout = models.batch["layout"]
    teacher = shape_of(models.teachers[0]) if models.teachers else None
    flops = floor_flops(
        shape_of(models.student),
        teacher,
        rows=rows,
        width=width,
        labelled=layout.labelled,
        checkpointing=True,
    )
    if models.layers:
        keys = float(sum(place + 1 for row in layout.places for place in row))
        flops += attention_loss_flops(shape_of(models.student), len(models.layers), keys)
    speed = f"{rows * width / whole:,.0f} tokens/s"
    mfu = f"MFU {flops / whole / peak:.0%}" if peak else f"{flops / whole / 1e12:.2f} TFLOP/s"
    name = f"{method.upper()} step, {label}, {rows} × {width}, {kernels.name}"
    report.row(name, speed, mfu)
    if method == "kd":
        share = max(0.0, whole - less) / whole
        report.row(f"{name}: attention loss", f"{share:.1%} of the step", wanted="≤ 8 %")
    if report.device.type == "cuda":
        real = torch.cuda.max_memory_allocated(report.device) / 2**30
        plan = planned_bytes(shape, method, rows, width, kernels.name) / 2**30
        against = f"plan {plan:.1f} GiB: {real / plan:.2f} ×"
        report.row(f"{name}: peak memory", f"{real:.1f} GiB", against, "0.9 to 1.1 ×")


def planned_bytes(
    shape: Mapping[str, Any], method: str, rows: int, width: int, kernels: str
) -> float:
    """Return what `kdharness plan` says of a step."""
    from transformers import LlamaConfig

    with tempfile.TemporaryDirectory() as folder:
        LlamaConfig(**shape).save_pretrained(folder)
        trainer: dict[str, Any] = {
            "batch_size": rows,
            "gradient_checkpointing": True,
            "precision": "mixed",
            "kernels": kernels,
        }
        values: dict[str, Any] = {"method": method, "student": folder, "trainer": trainer}
        values["data"] = {"train": [{"path": "x"}]}
        roles = {"kd": ["teacher"], "dae": ["reference", "expert"]}.get(method, [])
        values |= dict.fromkeys(roles, folder)
        if method == "dae":
            values["data"]["train"].append({"path": "y", "kind": "domain"})
        size = model_size(folder, Paths(Path(folder)))
        parts, _ = plan_memory(
            parse_config(values),
            size,
            dict.fromkeys(roles, size),
            width,
            engine="single",
            processes=1,
            on_cpu=False,
        )
        return sum(parts.values())


def measure_generation(report: Report) -> None:
    """Time answers of SmolLM2, where it was pulled, against transformers' `generate`."""
    from kdharness.judges.engines.local import LocalEngine

    paths = find_paths()
    source = paths.assets / "smollm2-135m-instruct"
    if report.tiny or not source.is_dir():
        report.row("answers, SmolLM2", "not measured: kdharness data pull smollm2-135m-instruct")
        return
    words = [{"role": "user", "content": "Write a long story about a lighthouse."}]
    for count, length in ((64, 128), (1, 128)):
        rates = []
        for graphs in (False, True):
            engine = LocalEngine(
                str(source),
                paths,
                batch_size=count,
                device=str(report.device),
                cuda_graphs=graphs and report.device.type == "cuda",
            )
            requests = [GenerationRequest(tuple(words), 0.7, length, seed=n) for n in range(count)]
            list(engine.stream(requests[:4]))
            began = time.perf_counter()
            made = sum(reply.tokens for _, reply in engine.stream(requests))
            rates.append(made / (time.perf_counter() - began))
        prompt = engine.tokenizer.apply_chat_template(words, add_generation_prompt=True)
        ids = torch.tensor([prompt["input_ids"]] * count, device=report.device)
        began = time.perf_counter()
        out = engine.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            max_new_tokens=length,
            min_new_tokens=length,
            pad_token_id=0,
        )
        wait(report.device)
        theirs = (out.shape[1] - ids.shape[1]) * count / (time.perf_counter() - began)
        report.row(
            f"answers, SmolLM2, {count} at once",
            f"{rates[0]:,.0f} tokens/s, with CUDA graphs {rates[1]:,.0f}",
            f"generate {theirs:,.0f} tokens/s",
        )


def main() -> int:
    """Run everything; return 1 if a comparison with the CPU failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    parser.add_argument("--tiny", action="store_true", help="toy shapes on any device")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.tiny:
        print("no CUDA GPU was found; --tiny tries this script on the CPU", file=sys.stderr)
        return 2
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Products in fp32 mean fp32 where they are compared with the CPU.
    torch.set_float32_matmul_precision("highest")
    report = Report(device, args.tiny)
    for part in (
        check_heads,
        check_attention,
        check_trainings,
        check_runs,
        check_decoding,
        check_rounding,
        measure_head,
        measure_steps,
        measure_generation,
    ):
        with fresh_memory(device):
            part(report)
    text = report.markdown((time.monotonic() - began) / 60)
    if args.out:
        args.out.write_text(text, "utf-8")
    print(f"\n{text}")
    if report.failed:
        print(f"failed: {', '.join(report.failed)}", file=sys.stderr)
    return int(bool(report.failed))


if __name__ == "__main__":
    sys.exit(main())
