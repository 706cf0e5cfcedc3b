"""A student made from other models: kept layers, and which teacher layer each one follows."""

from __future__ import annotations

import copy
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdharness.harness.config.training import StudentSpec
from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.models.checkpoints import add_made, model_checkpoint
from kdharness.harness.models.generation_config import make_savable
from kdharness.harness.models.loading import load_model, load_tokenizer
from kdharness.harness.models.resolve import resolve_model
from kdharness.harness.paths import Paths, exists
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Method, Reporter, digest
from kdharness.harness.util.atomic import replace_folder
from kdharness.harness.util.untrusted import read_json_object


def kept_layers(keep: int | Sequence[int], depth: int) -> list[int]:
    """The teacher layers a cut student keeps, ascending: evenly spaced, the first and last too.

    Raises:
        ConfigError: more layers than there are, or a list that is not ascending and in range.
    """
    if isinstance(keep, int):
        if not 1 <= keep <= depth:
            raise ConfigError(
                f"keep_layers is {keep}, but the model has {depth} layers",
                where="student.keep_layers",
            )
        if keep == 1:
            return [depth - 1]
        return [round(i * (depth - 1) / (keep - 1)) for i in range(keep)]
    layers = list(keep)
    if not layers or layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= depth:
        raise ConfigError(
            f"keep_layers must be ascending numbers from 0 to {depth - 1}",
            where="student.keep_layers",
        )
    return layers


def map_layers(spec: str | Sequence[int], student_depth: int, teacher_depth: int) -> dict[int, int]:
    """Student layer -> teacher layer (METHOD.md section 5).

    `uniform` spreads the student's layers over the teacher's, last to last; `last-k` pairs the
    last layers one to one; a list names the teacher layer of each student layer, -1 for none.

    Raises:
        ConfigError: a list of the wrong length or with layers that don't exist.
    """
    if spec == "uniform":
        return {i: round((i + 1) * teacher_depth / student_depth) - 1 for i in range(student_depth)}
    if spec == "last-k":
        k = min(student_depth, teacher_depth)
        return {student_depth - k + i: teacher_depth - k + i for i in range(k)}
    layers = [int(layer) for layer in spec]
    if len(layers) != student_depth or not all(-1 <= n < teacher_depth for n in layers):
        raise ConfigError(
            f"a layer map needs {student_depth} numbers from -1 to {teacher_depth - 1}, "
            f"got {len(layers)}",
            where="trainer.layer_map",
        )
    return {i: n for i, n in enumerate(layers) if n >= 0}


def find_layers(model: Any) -> tuple[Any, str]:
    """The module that holds the decoder layers, and its attribute's name.

    Raises:
        ModelError: an architecture whose layers are not found.
    """
    base = model.base_model
    for name in ("layers", "h", "blocks"):
        layers = getattr(base, name, None)
        if layers is not None and hasattr(layers, "__len__"):
            return base, name
    raise ModelError(
        f"cannot find the layers of {type(model).__name__}",
        hint="give a student model instead of student.from",
    )


def cut_model(teacher: Any, keep: int | Sequence[int]) -> tuple[Any, list[int]]:
    """A deep copy of `teacher` with only the kept layers; returns it with their list."""
    import torch

    base, name = find_layers(teacher)
    layers = getattr(base, name)
    kept = kept_layers(keep, len(layers))
    setattr(base, name, torch.nn.ModuleList([layers[i] for i in kept]))
    try:
        student = copy.deepcopy(teacher)
    finally:
        setattr(base, name, layers)
    for index, layer in enumerate(getattr(student.base_model, name)):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = index
    config = student.config
    config.num_hidden_layers = len(kept)
    for per_layer in ("layer_types", "no_rope_layers", "mlp_layer_types"):
        values = getattr(config, per_layer, None)
        if isinstance(values, list) and len(values) == len(layers):
            setattr(config, per_layer, [values[i] for i in kept])
    return student, kept


def make_student(
    spec: StudentSpec,
    teacher: str | None,
    paths: Paths,
    *,
    dtype: str = "auto",
    reporter: Reporter | None = None,
) -> Checkpoint:
    """The checkpoint the student starts from, made and stored once if it does not exist yet.

    Args:
        spec: the config's student.
        teacher: the source that `from: teacher` stands for.
        paths: the home; made students lie in its `models/`.
        dtype: the precision to make it in.
        reporter: told while large weights are read.

    Raises:
        ConfigError: `from: teacher` in a config without a teacher.
    """
    if spec.model:
        start = model_checkpoint(paths, spec.model, reporter=reporter)
        if spec.lora and exists(Path(start.path) / "adapter_config.json"):
            return _merged(start, spec.model, paths, trust_remote_code=spec.trust_remote_code)
        return start
    if spec.experts_from:
        from kdharness.trainers.students.mixture import make_mixture

        return make_mixture(spec, paths, dtype=dtype)
    source = str(spec.source)
    if source == "teacher":
        if teacher is None:
            raise ConfigError(
                "this method has no teacher to cut from; name the model", where="student.from"
            )
        source = teacher
    assert spec.keep_layers is not None
    parent = model_checkpoint(paths, source, reporter=reporter)
    # Named after what the teacher is and not where it lies: weights that changed are cut anew.
    target = paths.models / f"cut-{_file_name(parent)}-{digest(parent.id, spec.keep_layers)[:8]}"
    if not (target / "config.json").exists():
        model = load_model(
            source, paths, dtype=dtype, device="cpu", trust_remote_code=spec.trust_remote_code
        )
        student, kept = cut_model(model, spec.keep_layers)
        save_folder(
            student, load_tokenizer(source, paths), target, {"kept_layers": kept, "from": source}
        )
    info = read_origin(target)
    return add_made(
        paths,
        target,
        name=f"{parent.name}-cut{len(info['kept_layers'])}",
        method=Method.CUT.value,
        parents={"teacher": parent.id},
        info=info,
    )


def _merged(
    adapter: Checkpoint, source: str, paths: Paths, *, trust_remote_code: bool
) -> Checkpoint:
    """An adapter checkpoint as a whole model, made once: what a new adapter is trained on.

    The new adapter's config names its base. Were that the old adapter's own base, loading would
    leave the old adapter out.
    """
    target = paths.models / f"merged-{_file_name(adapter)}-{adapter.id[:8]}"
    if not (target / "config.json").exists():
        model = load_model(source, paths, device="cpu", trust_remote_code=trust_remote_code)
        save_folder(model, load_tokenizer(source, paths), target, {"merged_from": adapter.name})
    return add_made(
        paths,
        target,
        name=f"{adapter.name}-merged",
        method=adapter.method,
        parents={"adapter": adapter.id},
    )


def _file_name(checkpoint: Checkpoint) -> str:
    """A checkpoint's name as the part of a folder's."""
    return re.sub(r"[^\w.-]", "-", checkpoint.name)[:64]


def save_folder(model: Any, tokenizer: Any, target: Path, origin: dict[str, Any]) -> None:
    """Save a made model, all or nothing, with a note of how it was made."""
    import json

    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    dropped = make_savable(model)
    note = {**origin, "generation_config_without": dropped} if dropped else origin
    try:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        (scratch / "kdharness.json").write_text(json.dumps(note), "utf-8")
        replace_folder(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_origin(folder: str | Path) -> dict[str, Any]:
    """How a made model was made; empty for any other model."""
    path = Path(folder) / "kdharness.json"
    if not path.exists():
        return {}
    return read_json_object(path, "kdharness.json", ModelError)


def kept_of(checkpoint: Checkpoint, teacher: Checkpoint, paths: Paths) -> list[int] | None:
    """The layers a student kept, when it was cut from that very teacher, directly or trained on.

    The weights decide: a teacher with another chat template has the same layers.
    """
    kept, source = checkpoint.info.get("kept_layers"), checkpoint.parents.get("teacher")
    if kept is None or source is None:
        return None
    with Store(paths.store) as store:
        origin = store.checkpoint(source)
    if origin is None or origin.model != teacher.model:
        return None
    return [int(layer) for layer in kept]


def merge_adapter(source: str, output: str, paths: Paths) -> str:
    """Write a LoRA checkpoint as a plain model folder; returns the folder.

    Raises:
        ConfigError: the output exists. ModelError: the source is not an adapter.
    """
    folder = Path(resolve_model(source, paths))
    if not (folder / "adapter_config.json").exists():
        raise ModelError(f"{source} is not an adapter: there is nothing to merge")
    target = Path(output).expanduser().resolve()
    if target.exists():
        raise ConfigError("this folder exists; choose another name", where=str(target))
    model = load_model(str(folder), paths, device="cpu")
    parent = model_checkpoint(paths, source)
    save_folder(model, load_tokenizer(str(folder), paths), target, {"merged_from": parent.name})
    add_made(paths, target, name=target.name, method=parent.method, parents={"adapter": parent.id})
    return str(target)
