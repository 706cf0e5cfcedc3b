"""What a training's precision needs: autocast, an optimizer that rounds, advice on plain bf16."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from kdharness.harness.config.precision import Precision
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.errors import ConfigError
from kdharness.trainers.engines import uses_fsdp

if TYPE_CHECKING:
    from torch.optim import Optimizer


def autocast(precision: Precision, device: str) -> AbstractContextManager[object]:
    """Return the context in which the student's products run in its precision."""
    if not precision.autocast:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def check_setup(precision: Precision, spec: TrainerSpec, environ: Mapping[str, str]) -> None:
    """Refuse what would end a training, or change its precision, only after models are loaded.

    Raises:
        ConfigError: the optimizer's package is missing, or accelerate's own precision is another.
    """
    # transformers prefers what `accelerate launch` read from its file over `bf16=False`.
    launched = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", "bf16" if precision.autocast else "no"):
        raise ConfigError(
            f"accelerate's config has mixed_precision: {launched}, which is not precision: "
            f"{precision.name}",
            where="trainer.precision",
            hint='set mixed_precision: "no" in it, so that trainer.precision decides',
        )
    if precision.stochastic:
        stochastic_optimizer(spec, 0)
        if uses_fsdp(environ) and spec.optimizer == "adamw_8bit":
            raise ConfigError(
                "precision: bf16-sr with adamw_8bit cannot be sharded: torchao's 8-bit state fails",
                where="trainer.optimizer",
                hint="set trainer.optimizer: adamw, or use DDP",
            )
    elif spec.optimizer == "adamw_8bit" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "optimizer: adamw_8bit needs the package bitsandbytes",
            where="trainer.optimizer",
            hint="pip install 'kdharness[gpu]', or set trainer.optimizer: adamw",
        )


@torch.no_grad()
def movable_share(weights: Iterable[Tensor], rate: float) -> float:
    """Return the share of bf16 weights that a step of size `rate` can move.

    bf16 has 8 significant bits: a weight in [2^e, 2^(e+1)) has neighbours at a distance of 2^(e-7)
    and moves, rounded to nearest, only if the step is more than half of that.
    """
    moved = total = 0
    for weight in weights:
        exponent = torch.frexp(weight.detach().float()).exponent - 1
        # The neighbours of 0 are closer than any step.
        moved += int(((torch.exp2((exponent - 8).float()) < rate) | (weight == 0)).sum())
        total += weight.numel()
    return moved / max(total, 1)


def precision_note(precision: Precision, spec: TrainerSpec, model: Any) -> str:
    """Return a warning about what plain bf16 loses; empty for every other precision."""
    if precision.name != "bf16":
        return ""
    trained = [value for value in model.parameters() if value.requires_grad]
    # Of a sharded model this process's part: one process alone asks.
    trained = [v.to_local() if isinstance(v, DTensor) else v for v in trained]
    share = movable_share(trained, spec.learning_rate)
    others = "mixed" if hasattr(model, "peft_config") else "mixed or bf16-sr"
    return (
        f"precision: bf16 loses small updates: a step of {spec.learning_rate:g} moves at most "
        f"{share:.0%} of these weights; {others} moves all of them on average"
    )


def stochastic_optimizer(spec: TrainerSpec, seed: int) -> tuple[type[Optimizer], dict[str, Any]]:
    """Return torchao's AdamW with stochastic rounding, and its arguments.

    Its state is fp32, or 8-bit for `adamw_8bit`: a second moment in bf16 would never decay.

    Raises:
        ConfigError: torchao is not installed.
    """
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            "precision: bf16-sr needs the package torchao",
            where="trainer.precision",
            hint="pip install 'kdharness[gpu]', or set trainer.precision: mixed",
        ) from error
    eight_bit = spec.optimizer == "adamw_8bit"

    class StochasticAdamW(AdamW8bit):  # type: ignore[misc, unused-ignore]
        """AdamW on bf16 weights whose updates are rounded stochastically."""

        def _new_buffer(self, p: Tensor, signed: bool) -> Any:
            # torchao would keep what it does not quantise, such as small norms, in bf16.
            if eight_bit and type(made := super()._new_buffer(p, signed)) is not Tensor:
                return made
            return torch.zeros_like(p, dtype=torch.float32)

        def step(self, closure: Any = None) -> Any:
            """Make a step with the draws of its own number: the same on every process."""
            weights = [p for group in self.param_groups for p in group["params"]]
            steps = next((int(s["step"]) for s in self.state.values() if "step" in s), 0)
            devices = sorted({p.device.index for p in weights if p.device.type == "cuda"})
            # torchao compiles its update, which takes a CPU longer than the update itself.
            on_cpu = all(p.device.type == "cpu" for p in weights)
            stance = torch.compiler.set_stance("force_eager") if on_cpu else nullcontext()
            with torch.random.fork_rng(devices), stance:
                torch.manual_seed(seed * 1_000_003 + steps)
                return super().step(closure)

        def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
            """Restore the state without casting it to the weights' dtype."""
            super().load_state_dict(dict(state_dict))
            weights = [p for group in self.param_groups for p in group["params"]]
            # Numbers, or names where a sharded state is restored.
            keys = [key for group in state_dict["param_groups"] for key in group["params"]]
            for key, weight in zip(keys, weights, strict=True):
                for name, value in state_dict["state"].get(key, {}).items():
                    if isinstance(value, Tensor) and name != "step":
                        self.state[weight][name] = value.to(weight.device)

    rate: dict[str, Any] = {"lr": spec.learning_rate, "bf16_stochastic_round": True}
    return StochasticAdamW, rate


def sharding_policy(*, bf16: bool) -> MixedPrecisionPolicy:
    """Return how a sharded student computes: gradients are summed in fp32.

    Inputs are not cast: the loss's own stay as they are.
    """
    return MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
