"""Kernels and short trainings on a device, compared with the CPU."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_cases import CPU, TOY, Report, case_of, distance, kernels_here
from torch import Tensor
from transformers.models.auto import AutoModelForCausalLM

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.precision import precision_of
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.models.lm_head import Head
from kdharness.harness.paths import Paths
from kdharness.judges.engines.decoding import Decoding, Fixed, Growing, recorded
from kdharness.trainers.kernels import Kernels, kernels_named
from kdharness.trainers.losses.attention import AttentionTape, Rows
from kdharness.trainers.losses.fused import Mix, fused_loss
from kdharness.trainers.precision import stochastic_optimizer
from kdharness.trainers.tools.selfcheck import fused_step
from support.models import make_llama
from support.training_runs import config_of, train


def check_heads(report: Report) -> None:
    """Compare the head's loss and gradients in fp32 with those of fp64 inputs on the CPU."""
    g = torch.Generator().manual_seed(0)
    rows, width, vocab = (37, 24, 150) if report.tiny else (1000, 256, 32_003)
    hidden, weight = torch.randn(rows, width, generator=g), torch.randn(vocab, width, generator=g)
    taught = hidden + 0.3 * torch.randn(rows, width, generator=g)
    targets = torch.randint(0, vocab, (rows,), generator=g)
    for kind in ("forward_kl", "reverse_kl", "js", "skew_kl", "skew_reverse_kl"):
        mix = Mix(2.0, kind, 0.3, 0.7, 0.3)
        for kernels in kernels_here(report.device):
            results = []
            for place, dtype in (
                (report.device, torch.float32),
                (torch.device("cpu"), torch.float64),
            ):
                h, w, t = (part.to(place, dtype, copy=True) for part in (hidden, weight, taught))
                h, w = h.requires_grad_(), (w / width**0.5).requires_grad_()
                inner = kernels.chunk_loss if dtype is torch.float32 else None
                more = {} if inner is None else {"inner": inner}
                loss, _ = fused_loss(
                    h,
                    Head(w),
                    mix=mix,
                    teacher=(Head(w.detach()), t),
                    targets=targets.to(place),
                    **more,
                )
                loss.backward()
                results.append((loss, h.grad, w.grad))
            errors = [distance(*pair) for pair in zip(*results, strict=True)]  # type: ignore[arg-type]
            report.check(f"head, {kind}, {kernels.name}", max(errors), 1e-4)


ATTENTION: dict[str, dict[str, Any]] = {
    "plain": {},
    "window and padding": {"window": 33, "padded": 17},
    "soft-cap": {"softcap": 5.0},
    "other head counts": {"teacher_heads": 4},
}


def check_attention(report: Report) -> None:
    """Compare the attention loss with that of fp64 inputs on the CPU."""
    length, size = (40, 16) if report.tiny else (512, 96)
    for name, case in ATTENTION.items():
        g = torch.Generator().manual_seed(1)
        theirs = case.get("teacher_heads", 8)
        q, k = (torch.randn(2, n, length, size, generator=g) for n in (8, 2))
        qt, kt = (torch.randn(2, n, length, size, generator=g) for n in (theirs, 2))
        keys = torch.ones(2, length, dtype=torch.bool)
        keys[0, : case.get("padded", 0)] = False
        rows = [torch.arange(length // 2, length), torch.arange(20, length, 3)]
        for kernels in kernels_here(report.device):
            results = []
            for place, dtype in (
                (report.device, torch.float32),
                (torch.device("cpu"), torch.float64),
            ):
                a, b, c, d = (part.to(place, dtype, copy=True) for part in (q, k, qt, kt))
                a, b = a.requires_grad_(), b.requires_grad_()
                own = {"window": case.get("window", 0), "softcap": case.get("softcap", 0.0)}
                on_place = [row.to(place) for row in rows]
                tape = AttentionTape({0: 0}, on_place, keys.to(place))
                kl = kernels.attention_kl if dtype is torch.float32 else tape.kl
                scale = size**-0.5
                loss = kl(Rows(a, b, scale, **own), Rows(c, d, scale), tape)
                loss.backward()
                results.append((loss, a.grad, b.grad))
            errors = [distance(*pair) for pair in zip(*results, strict=True)]  # type: ignore[arg-type]
            report.check(f"attention, {name}, {kernels.name}", max(errors), 1e-4)


def losses(
    method: str, lora: bool, device: torch.device, kernels: Kernels, steps: int = 3
) -> Tensor:
    """Return the losses of a short fp32 training."""
    models = case_of({**TOY, "num_hidden_layers": 3}, method, 4, 64, device, kernels, lora=lora)
    values = [value for value in models.student.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(values, lr=1e-3)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        weight = 1.0 if method == "kd" else 0.0
        mix = Mix(kl_weight=0.0, ce_weight=1.0) if method == "sft" else Mix()
        loss = fused_step(models, method, mix, weight)
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return torch.stack(found)


def check_trainings(report: Report) -> None:
    """Compare the losses of short trainings with the CPU's."""
    for method, lora in (("sft", False), ("kd", False), ("dae", False), ("kd", True)):
        want = losses(method, lora, CPU, kernels_named("reference"))
        for kernels in kernels_here(report.device):
            got = losses(method, lora, report.device, kernels)
            name = f"{method}{' with LoRA' if lora else ''}, 3 steps, {kernels.name}"
            report.check(name, distance(got, want), 1e-3)


def check_rounding(report: Report) -> None:
    """Compare what stochastic rounding learns with what fp32 learns, from the same weights."""
    if find_spec("torchao") is None:
        report.row("bf16-sr against fp32", "not measured: torchao is not installed")
        return
    gains = {}
    for name in ("fp32", "bf16-sr"):
        precision = precision_of(name, "auto", lora=False, has_bf16=True)
        models = case_of(TOY, "sft", 8, 64, report.device, kernels_named("reference"))
        student = models.student.to(getattr(torch, precision.weights))
        spec = TrainerSpec(precision=name, learning_rate=2e-4)
        options: dict[str, Any] = {"lr": spec.learning_rate}
        kind: Any = torch.optim.AdamW
        if precision.stochastic:
            kind, options = stochastic_optimizer(spec, 1)
        optimizer = kind(list(student.parameters()), **options)
        values = []
        for _ in range(5 if report.tiny else 40):
            optimizer.zero_grad()
            loss = fused_step(models, "sft", Mix(kl_weight=0.0, ce_weight=1.0), 0.0)
            loss.backward()
            optimizer.step()
            values.append(float(loss.detach()))
        gains[name] = values[0] - values[-1]
    report.check(
        "bf16-sr: what fp32 gains and it does not", 1 - gains["bf16-sr"] / gains["fp32"], 0.1
    )


def check_runs(report: Report) -> None:
    """Compare whole runs, from config to checkpoint, with the same on the CPU."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in (1, 2):
            make_llama(folder / f"{seed}", seed=seed, initializer_range=0.05)
        for method, lora in (("sft", False), ("kd", False), ("dae", True)):
            found = []
            for device in ("cpu", report.device.type):
                config = config_of(folder / "2", method, lora, precision="fp32")
                values = config.model_dump(mode="json", by_alias=True, exclude_none=True)
                values["student"]["model"] = str(folder / "1")
                values["trainer"]["device"] = device
                paths = Paths(folder / f"{method}-{device}-{len(found)}")
                _, listener = train(parse_config(values), paths, "run")
                points = [point["loss"] for _, point in listener.points if "loss" in point]
                found.append(torch.tensor(points))
            kind = f"{method}{' with LoRA' if lora else ''}"
            report.check(f"run, {kind}, {len(found[0])} steps", distance(found[1], found[0]), 1e-3)


def check_decoding(report: Report) -> None:
    """Compare the logits of fixed buffers, replayed where there are CUDA graphs, with the CPU's."""
    with tempfile.TemporaryDirectory() as name:
        make_llama(Path(name), initializer_range=0.05)
        walks = []
        for device, fixed in ((CPU, False), (report.device, True)):
            model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).to(device)
            record = recorded if device.type == "cuda" else None
            way = (
                Fixed(model.eval(), [5, 9, 2], "m", 128, record)
                if fixed
                else Growing(model.eval(), [5, 9, 2], "m", 128)
            )
            walks.append(_logits(way, device))
    report.check("generation, fixed buffers", distance(walks[1], walks[0]), 1e-4)


@torch.inference_mode()
def _logits(way: Decoding, device: torch.device) -> Tensor:
    """Return the logits of twelve given tokens, one row left after the sixth."""
    ids = torch.arange(27).view(3, 9) + 3
    seen = [way.prefill(ids.to(device))[-1:]]
    for step in range(12):
        chosen = torch.full((3 if step < 6 else 1,), 5 + step, device=device)
        if step == 6:
            way.keep([2])
        seen.append(way.step(chosen)[-1:])
    return torch.cat(seen).cpu()
