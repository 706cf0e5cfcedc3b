"""Loading models and tokenizers through transformers and peft, safetensors only.

torch and transformers are imported inside the functions.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdharness.harness.errors import ConfigError, KDHarnessError, ModelError
from kdharness.harness.models.adapters import (
    DEEPEST,
    is_adapter,
    refuse_unmergeable,
    too_deep_error,
    untie_adapted,
)
from kdharness.harness.models.generation_config import refuse_unreadable
from kdharness.harness.models.lm_head import has_own_head, state_own_head
from kdharness.harness.models.loading_errors import explain, quiet_transformers
from kdharness.harness.models.resolve import local_folder, naming_base
from kdharness.harness.models.unused import unused_note
from kdharness.harness.models.validate import ADAPTER, tensor_entries
from kdharness.harness.paths import Paths

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from kdharness.harness.config.models import TeacherSpec


def pick_device(device: str = "auto") -> str:
    """Pick a device; `auto` is the first accelerator available, else the CPU.

    Raises:
        ConfigError: a device that torch does not have here.
    """
    import torch

    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise ConfigError(
                f"cannot use device {device!r}: {reason}",
                where="device",
                hint="auto uses the first accelerator available, else the CPU",
            ) from error
        return device
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def teacher_options(spec: TeacherSpec, device: str) -> dict[str, Any]:
    """Return how `load_model` loads a teacher that will run on a device."""
    return {
        "dtype": str(pick_dtype(spec.dtype, device)).removeprefix("torch."),
        "trust_remote_code": spec.trust_remote_code,
        "quantization": spec.quantization.model_dump() if spec.quantization else None,
    }


def pick_dtype(dtype: str, device: str) -> Any:
    """Pick a dtype; `auto` is bf16 on a GPU that has it in hardware, else fp32."""
    import torch

    if dtype == "auto":
        on_gpu = device.startswith("cuda")
        dtype = "float32"
        if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False):
            dtype = "bfloat16"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def has_bf16(device: str) -> bool:
    """Return whether a device is a GPU that computes in bf16 in hardware."""
    return str(pick_dtype("auto", device)) == "torch.bfloat16"


def is_cpu_faster_in_bf16(processors: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether models run on a CPU with AMX.

    Other CPUs multiply bf16 matrices more slowly than fp32 ones, even with instructions for them.

    Args:
        processors: Linux's list of processors; there is none elsewhere.
    """
    flags = processors.read_text("utf-8").split() if processors.exists() else []
    return "amx_bf16" in flags and pick_device() == "cpu"


def device_memory(device: str) -> int | None:
    """Return the bytes of a GPU's memory; None where torch sees no such CUDA device."""
    import torch

    device = pick_device() if device == "auto" else device
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def load_model(
    source: str,
    paths: Paths,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    quantization: dict[str, Any] | None = None,
    **extra: object,
) -> Any:
    """Load a causal LM in eval mode on `device`. PEFT folders load as base plus adapter, merged.

    `extra` goes to transformers; with a `distributed_config` every process loads its own shard.

    Raises:
        ModelError: not found, not safetensors, needs remote code or a missing package.
    """
    device = pick_device(device)
    folder = local_folder(source, paths, weights=True, code=trust_remote_code)
    options: dict[str, Any] = {
        "dtype": pick_dtype(dtype, device),
        "trust_remote_code": trust_remote_code,
        "use_safetensors": True,
        **extra,
    }
    if quantization:
        options["quantization_config"] = _quantization(quantization, options["dtype"])
        options["device_map"] = {"": device}
    try:
        with quiet_transformers():
            model = _load(folder, source, paths, options, device)
    except (MemoryError, KDHarnessError):
        raise
    except Exception as error:  # of transformers, tokenizers, safetensors, and hostile files
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise explain(error, source) from error
    if quantization:
        _keep_layout(model)
    if "distributed_config" not in options and has_own_head(model):
        # Else what is made from the model would be tied, and lose the head.
        state_own_head(model)
    if not {"device_map", "distributed_config"} & options.keys():
        model = model.to(device)
    return model.eval()


def _keep_layout(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew on a CPU with bf16 instructions.

    It does so in the first forward in eval mode, and later backward passes read the new layout as
    the old one: gradients are off by most of their size.
    """
    layers: Iterable[Any] = model.modules()
    for layer in layers:
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def _load(folder: Path, source: str, paths: Paths, options: dict[str, Any], device: str) -> Any:
    """Load a model folder, or an adapter merged into its base."""
    from transformers import AutoModelForCausalLM

    if (folder / "adapter_config.json").exists():
        return _load_adapter(folder, source, paths, options, device)
    refuse_unreadable(folder)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    model, info = loaded
    _refuse_missing(info, source)
    model.unused_note = unused_note(info.get("unexpected_keys", ()), source)
    return model


def _refuse_missing(info: Any, source: str) -> None:
    """Refuse missing weights, which transformers would silently initialise at random."""
    missing = sorted(map(str, info.get("missing_keys", ())))
    if missing:
        raise ModelError(
            f"could not load the model {source!r}: {len(missing)} tensors are missing from its "
            f"weights, first {missing[0][:120]}",
            hint="is the folder complete?",
        )


def _load_adapter(
    folder: Path, source: str, paths: Paths, options: dict[str, Any], device: str
) -> Any:
    """Load an adapter's base model and merge the adapter; the base may be an adapter too."""
    from peft import PeftModel

    refuse_unmergeable(folder, source)
    code = bool(options["trust_remote_code"])
    with naming_base(folder) as base:
        base_folder = local_folder(base, paths, weights=True, code=code)
        model = _load(base_folder, base, paths, options, device)
    if "device_map" not in options:
        model = model.to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its warnings are errors below
        model = PeftModel.from_pretrained(model, str(folder))
        load_adapter(model, folder, "default", source)
    untie_adapted(model)
    merged = model.merge_and_unload()
    for value in merged.parameters():
        # peft froze its base, and a training of all weights may start from what came of it.
        value.requires_grad_(value.is_floating_point())
    return merged


def load_adapter(model: PreTrainedModel, folder: Path, name: str, source: str) -> None:
    """Load all of an adapter's tensors into a PEFT model.

    peft leaves a missing tensor at its initial value, where an adapter has no effect: a file with
    other names would score exactly like its base.

    Raises:
        ModelError: missing or unexpected tensors.
    """
    _refuse_partial(
        model.load_adapter(str(folder), adapter_name=name, is_trainable=False), folder, source
    )


def _refuse_partial(result: Any, folder: Path, source: str) -> None:
    """Raise ModelError for missing or unexpected adapter tensors."""
    missing, unexpected = sorted(result.missing_keys), sorted(result.unexpected_keys)
    if not missing and not unexpected:
        return
    problems = []
    if missing:
        problems.append(f"{len(missing)} adapter tensors are missing, first {missing[0][:120]}")
    if unexpected:
        problems.append(
            f"{len(unexpected)} tensors of its file do not match the base model, first "
            f"{unexpected[0][:120]}"
        )
    wrapped = next((word for word in ("_orig_mod.", "module.") if _wrapped(unexpected, word)), "")
    raise ModelError(
        f"could not load the adapter {source!r}: {'; '.join(problems)}",
        where=str(folder / ADAPTER),
        hint=f"it was saved from a wrapped model: remove {wrapped!r} from its tensors' names"
        if wrapped
        else "was it trained on this base model?",
    )


def meta_model(source: str, paths: Paths, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Build a model's architecture without weights, from its config, on the meta device.

    Raises:
        ModelError: not found, or an architecture that cannot be built.
    """
    config = load_config_of(source, paths, trust_remote_code=trust_remote_code)
    return build_meta(config, source, trust_remote_code=trust_remote_code)


def build_meta(
    config: PreTrainedConfig, source: str, *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Build the architecture of a transformers config on the meta device.

    Raises:
        ModelError: it cannot be built.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers(), torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, trust_remote_code=trust_remote_code
            )
            return model
    except Exception as error:  # an architecture's own code may raise anything
        raise explain(error, source) from error


def check_adapter(
    folder: Path, source: str, paths: Paths, depth: int = 0, *, trust_remote_code: bool = False
) -> None:
    """Refuse an adapter that would not load completely, without loading any weights.

    Does nothing for a full model, nor for adapter types that cannot be built on the meta device.

    Raises:
        ModelError: as `load_model` would.
    """
    if not (folder / "adapter_config.json").exists():
        return
    import torch
    from peft import PeftConfig, get_peft_model
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
    from peft.utils.save_and_load import set_peft_model_state_dict

    if depth == DEEPEST:
        raise too_deep_error(folder)
    refuse_unmergeable(folder, source)
    with naming_base(folder) as base:
        base_folder = local_folder(base, paths, weights=False)
        code = trust_remote_code
        check_adapter(base_folder, base, paths, depth + 1, trust_remote_code=code)
        model = meta_model(base, paths, trust_remote_code=code)
    entries = tensor_entries(folder / ADAPTER)
    try:
        with quiet_transformers(), warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            config = PeftConfig.from_pretrained(str(folder))
            adapted = get_peft_model(model, config)
            tensors = {name: torch.empty(entry.shape) for name, entry in entries.items()}
            result = set_peft_model_state_dict(adapted, tensors, low_cpu_mem_usage=True)
    except Exception as error:  # of peft and torch
        if "meta tensor" in str(error):
            return
        raise explain(error, source, "adapter") from error
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type, "")
    kept = [key for key in result.missing_keys if prefix in key]
    _refuse_partial(result._replace(missing_keys=kept), folder, source)


def _wrapped(names: Sequence[str], word: str) -> bool:
    return any(f".{word}" in name for name in names)


def load_config_of(source: str, paths: Paths, *, trust_remote_code: bool = False) -> Any:
    """Load a model's transformers config; for an adapter, that of its base model."""
    from transformers import AutoConfig

    folder = local_folder(source, paths, weights=False, code=trust_remote_code)
    if (folder / "adapter_config.json").exists():
        with naming_base(folder) as base:
            return load_config_of(base, paths, trust_remote_code=trust_remote_code)
    try:
        # Always explicit: by default transformers would prompt on the terminal.
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise explain(error, source) from error


def stored_dtype(source: str, paths: Paths, *, trust_remote_code: bool = False) -> str:
    """Return the precision in which a model's weights are stored: float32, bfloat16 or float16.

    It is float32 for an adapter, which is to be merged in fp32, and where the config names none.
    """
    folder = local_folder(source, paths, weights=False, code=trust_remote_code)
    if is_adapter(folder):
        return "float32"
    config = load_config_of(str(folder), paths, trust_remote_code=trust_remote_code)
    dtype = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return dtype if dtype in ("bfloat16", "float16") else "float32"


def _quantization(settings: dict[str, Any], dtype: Any) -> Any:
    """Make a transformers quantization config from `{method: bnb-4bit | bnb-8bit}`.

    4-bit weights are multiplied in `dtype`; bitsandbytes' own default is fp32 on every device.
    """
    from transformers import BitsAndBytesConfig

    # It would say before every product that its inputs are cast.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    method = settings.get("method", "bnb-4bit")
    if method == "bnb-8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def load_tokenizer(
    source: str, paths: Paths, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the fast tokenizer of a model, with a padding token and left padding.

    Raises:
        ModelError: not found or not loadable.
    """
    from transformers import AutoTokenizer

    folder = local_folder(source, paths, weights=False, code=trust_remote_code)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except MemoryError:
        raise
    except Exception as error:  # the tokenizers package raises plain Exception
        raise explain(error, source) from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
