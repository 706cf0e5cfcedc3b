"""The checkpoint that a student starts from: an existing one, or one made from others."""

from __future__ import annotations

from pathlib import Path

from kdharness.harness.config.models import StudentSpec
from kdharness.harness.errors import ConfigError
from kdharness.harness.models.adapters import is_adapter
from kdharness.harness.models.checkpoints import add_made, model_checkpoint
from kdharness.harness.models.loading import load_model, load_tokenizer
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Reporter
from kdharness.harness.types import Checkpoint, Method, digest
from kdharness.trainers.layers import cut_model
from kdharness.trainers.students.adapter import merged_start
from kdharness.trainers.students.folder import folder_name, read_origin, save_folder
from kdharness.trainers.students.mixture import make_mixture


def make_student(
    spec: StudentSpec,
    teacher: str | None,
    paths: Paths,
    *,
    reporter: Reporter | None = None,
) -> Checkpoint:
    """Return the checkpoint the student starts from; make and store it if it does not exist.

    Args:
        spec: the config's student.
        teacher: the model that `from: teacher` refers to.
        paths: the home; students are stored in its `models/`.
        reporter: reports progress while large weights are read.

    Raises:
        ConfigError: `from: teacher` in a config without a teacher.
    """
    if spec.model:
        start = model_checkpoint(paths, spec.model, reporter=reporter)
        if spec.lora and is_adapter(Path(start.path)):
            return merged_start(start, spec.model, paths, trust_remote_code=spec.trust_remote_code)
        return start
    if spec.experts_from:
        return make_mixture(spec, paths)
    source = str(spec.source)
    if source == "teacher":
        if teacher is None:
            raise ConfigError(
                "this method has no teacher to cut from; give a model", where="student.from"
            )
        source = teacher
    assert spec.keep_layers is not None
    parent = model_checkpoint(paths, source, reporter=reporter)
    # Named after the teacher's content, not its path: changed weights are cut again.
    target = paths.models / f"cut-{folder_name(parent)}-{digest(parent.id, spec.keep_layers)[:8]}"
    if not (target / "config.json").exists():
        # In fp32 whatever the run's precision: later runs of other precisions start from it too.
        code = spec.trust_remote_code
        model = load_model(source, paths, device="cpu", trust_remote_code=code)
        student, kept = cut_model(model, spec.keep_layers)
        tokenizer = load_tokenizer(source, paths, trust_remote_code=code)
        save_folder(student, tokenizer, target, {"kept_layers": kept, "from": source})
    info = read_origin(target)
    return add_made(
        paths,
        target,
        name=f"{parent.name}-cut{len(info['kept_layers'])}",
        method=Method.CUT.value,
        parents={"teacher": parent.id},
        info=info,
    )
