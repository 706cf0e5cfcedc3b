"""Which layers a student keeps, and which of its teacher's they are matched with."""

from __future__ import annotations

from collections.abc import Sequence

from kdharness.harness.errors import ConfigError


def kept_layers(keep: int | Sequence[int], depth: int) -> list[int]:
    """Return the teacher layers to keep, ascending: evenly spaced, including first and last.

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
    """Return student layer -> teacher layer (docs/method.md#attention).

    `uniform` spreads the student's layers over the teacher's, last to last; `last-k` pairs the
    last layers one to one; a list gives the teacher layer of each student layer, -1 for none.

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
