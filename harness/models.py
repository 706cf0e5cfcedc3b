"""Models and tokenizers: found by name, loaded through transformers, safetensors only.

A source is, in this order: a local folder, a stored checkpoint's name, a pulled model asset, or
a hub id. torch and transformers are imported inside the functions.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from kdharness.harness import assets
from kdharness.harness.durable import replace_folder
from kdharness.harness.errors import KDHarnessError, ModelError
from kdharness.harness.gguf_header import check_gguf
from kdharness.harness.paths import Paths, exists, local_path
from kdharness.harness.reading import read_json_object
from kdharness.harness.secrets import redact
from kdharness.harness.store import Store
from kdharness.harness.weights import check_config, check_folder

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def resolve_model(source: str, paths: Paths) -> str:
    """What `from_pretrained` should be given for `source`.

    Raises:
        ModelError: nothing of that name, with what was tried.
        AssetError: a model asset that has not been pulled.
    """
    folder = local_path(source)
    if exists(folder, folder=True):
        if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
            raise ModelError(
                f"{folder} holds no model (no config.json)",
                hint="give the folder that save_pretrained wrote",
            )
        return str(folder.resolve())
    if source in assets.manifest():
        return str(_converted(source, paths))
    if paths.store.exists():
        with Store(paths.store) as store:
            checkpoint = store.checkpoint(source)
        if checkpoint is not None and checkpoint.path:
            if exists(Path(checkpoint.path), folder=True) or _HUB_ID.match(checkpoint.path):
                return checkpoint.path
            raise ModelError(f"checkpoint {source} is stored, but its folder is gone",
                             where=checkpoint.path)
    if _HUB_ID.match(source) and not source.startswith("."):
        return source
    raise ModelError(
        f"no model named {source[:200]!r}",
        hint="give a local folder, a checkpoint's name (kdharness leaderboard), "
        "an asset (kdharness data list) or a hub id such as org/name",
    )


def _converted(asset: str, paths: Paths) -> Path:
    """The safetensors folder of a GGUF asset, converted once."""
    target = paths.models / asset
    if (target / "config.json").exists():
        return target
    name = next(iter(assets.manifest()[asset].files))
    gguf = assets.asset_file(paths, asset, name)
    convert_gguf(gguf, target)
    return target


def convert_gguf(gguf: Path, target: Path) -> None:
    """Dequantise a GGUF file into an fp32 safetensors folder, all or nothing."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    elements, tensors = check_gguf(gguf)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(
                gguf.parent, gguf_file=gguf.name, trust_remote_code=False
            )
            check_config(config.to_dict(), elements, tensors, str(gguf))
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
            )
            # What is saved is plain fp32: the marks of the quantised source would make
            # transformers look for a quantiser when the folder is loaded again.
            if hasattr(model, "hf_quantizer"):
                del model.hf_quantizer
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(scratch)
            tokenizer = AutoTokenizer.from_pretrained(
                gguf.parent, gguf_file=gguf.name, trust_remote_code=False
            )
            tokenizer.save_pretrained(scratch)
        replace_folder(scratch, target)
    except Exception as error:  # a header may be sound and what it says still be nonsense
        full = isinstance(error, OSError) and error.errno is not None
        if full or isinstance(error, (KDHarnessError, MemoryError)):
            raise
        raise _explain(error, gguf.name, str(gguf)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class quiet_transformers:
    """Silence progress bars and advice of transformers while a model loads."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self.level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self.level)


def pick_device(device: str = "auto") -> str:
    """`auto` is the first accelerator there is, else the CPU."""
    if device != "auto":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def pick_dtype(dtype: str, device: str) -> Any:
    """`auto` is bf16 where the hardware has it and fp32 on a CPU, where bf16 is slower."""
    import torch

    if dtype == "auto":
        good = device.startswith("cuda") and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if good else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def load_model(
    source: str,
    paths: Paths,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    quantization: dict[str, Any] | None = None,
    **extra: Any,
) -> Any:
    """A causal LM in eval mode on `device`. PEFT folders load as their base with the adapter.

    Raises:
        ModelError: not found, not safetensors, needs remote code or a missing package.
    """
    from transformers import AutoModelForCausalLM

    place = pick_device(device)
    found = _checked(source, paths)
    options: dict[str, Any] = {
        "dtype": pick_dtype(dtype, place),
        "trust_remote_code": trust_remote_code,
        "use_safetensors": True,
        **extra,
    }
    if quantization:
        options["quantization_config"] = _quantization(quantization)
        options["device_map"] = {"": place}
    try:
        with quiet_transformers():
            if (Path(found) / "adapter_config.json").exists():
                model = _load_adapter(found, paths, options, place)
            else:
                model, info = AutoModelForCausalLM.from_pretrained(
                    found, output_loading_info=True, **options
                )
                _refuse_missing(info, source)
    except (MemoryError, KDHarnessError):
        raise
    except Exception as error:  # of transformers, tokenizers, safetensors, and hostile files
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise _explain(error, source, found) from error
    if "device_map" not in options:
        model = model.to(place)
    return model.eval()


def _checked(source: str, paths: Paths) -> str:
    """The source as `from_pretrained` takes it; a folder's claims are held against its files."""
    found = resolve_model(source, paths)
    if exists(Path(found), folder=True):
        check_folder(Path(found))
    return found


def _refuse_missing(info: Any, source: str) -> None:
    """Weights that are not there would be drawn by chance, in silence."""
    missing = sorted(map(str, info.get("missing_keys", ())))
    if missing:
        raise ModelError(
            f"could not load the model {source!r}: {len(missing)} tensors are missing from its "
            f"weights, the first is {missing[0][:120]}", hint="is the folder complete?",
        )  # fmt: skip


def _load_adapter(folder: str, paths: Paths, options: dict[str, Any], place: str) -> Any:
    """The adapter's base model with the adapter merged in."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    base = str(PeftConfig.from_pretrained(folder).base_model_name_or_path)
    model = AutoModelForCausalLM.from_pretrained(_checked(base, paths), **options)
    if "device_map" not in options:
        model = model.to(place)
    return PeftModel.from_pretrained(model, folder).merge_and_unload()


def load_config_of(source: str, paths: Paths, *, trust_remote_code: bool = False) -> Any:
    """A model's transformers config; an adapter's is its base model's."""
    from transformers import AutoConfig

    found = _checked(source, paths)
    note = Path(found) / "adapter_config.json"
    if note.exists():
        base = read_json_object(note, note.name, ModelError)["base_model_name_or_path"]
        found = _checked(str(base), paths)
    try:
        # Said outright: left open, transformers would ask on the terminal.
        return AutoConfig.from_pretrained(found, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise _explain(error, source, found) from error


def _quantization(settings: dict[str, Any]) -> Any:
    """A transformers quantization config from `{method: bnb-4bit | bnb-8bit}`."""
    from transformers import BitsAndBytesConfig

    method = settings.get("method", "bnb-4bit")
    if method == "bnb-8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


def _explain(error: Exception, source: str, found: str) -> ModelError:
    """transformers' error as one of ours, with what to do."""
    text = redact(str(error).strip(), shapes=True)
    first = text.splitlines()[0] if text else type(error).__name__
    if "trust_remote_code" in text:
        hint = "this model runs its own code: set trust_remote_code: true if you trust its author"
    elif "safetensors" in text:
        hint = "only safetensors weights are loaded; convert the model once with save_pretrained"
    elif isinstance(error, ImportError) or "pip install" in text:
        hint = "a package this model needs is missing; see the message above"
    elif not Path(found).exists():
        hint = "check the name and the network, or give a local folder"
    else:
        hint = "is the folder complete? kdharness doctor tells what this machine can load"
    return ModelError(f"could not load the model {source!r}: {first[:400]}", hint=hint)


def load_tokenizer(source: str, paths: Paths, *, trust_remote_code: bool = False) -> Any:
    """The fast tokenizer of a model; its padding token is set, and pads on the left.

    Raises:
        ModelError: not found or not loadable.
    """
    from transformers import AutoTokenizer

    found = _checked(source, paths)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(found, trust_remote_code=trust_remote_code)
    except MemoryError:
        raise
    except Exception as error:  # the tokenizers package raises plain Exception
        raise _explain(error, source, found) from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
