"""The step checkpoints of a run, by name: what `trainer.save_every` saves along the way."""

from __future__ import annotations

import re
from pathlib import Path

from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.util.atomic import is_sealed

_NAMED = re.compile(r"(?P<run>[^/\\]+)/checkpoint-(?P<step>\d+|\*)")


def step_sources(name: str, paths: Paths) -> list[str]:
    """Return the folders that `RUN/checkpoint-N` or `RUN/checkpoint-*` names, oldest first.

    Any other name is returned as it is, and so is one that is a folder here.

    Raises:
        ConfigError: the run has no such checkpoint.
    """
    found = _NAMED.fullmatch(name)
    if found is None or Path(name).is_dir() or not paths.run(found["run"]).is_dir():
        return [name]
    steps = {
        int(path.name.removeprefix("checkpoint-")): str(path.resolve())
        for path in paths.run(found["run"]).glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit() and is_sealed(path)
    }
    wanted = sorted(steps) if found["step"] == "*" else [int(found["step"])]
    if not wanted or any(step not in steps for step in wanted):
        known = ", ".join(f"checkpoint-{step}" for step in sorted(steps)) or "none"
        raise ConfigError(
            f"{found['run']} has no {'step checkpoints' if not wanted else name.partition('/')[2]}",
            where="--ckpt",
            hint=f"there: {known}; trainer.save_every saves them, trainer.keep of them are kept",
        )
    return [steps[step] for step in wanted]
