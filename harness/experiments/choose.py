"""Choose the best of an experiment's settings by validation rows, to be tested once on others.

    choose: {of: dae, reference: start, expert: expert, general: "heldout:general_loss",
             domain: "validation:score", keep: 0.98, test: recipe-test}

The settings of the run with the largest gain among those that keep enough become those of the
steps of the same names in another experiment, which trains them with fresh seeds and scores them on
rows that had no part in the choice. Its runs have fixed names, so a second choice would not be
tested in the same home: it is refused as a run with different settings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.claims import ClaimResult, ClaimSpec, Figure
from kdharness.harness.experiments.frontiers import without_seed
from kdharness.harness.experiments.partners import SettingsOfRun


class ChooseSpec(BaseModel):
    """How the best settings of a step are chosen, and what tests them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str = Field(..., title="Of", description="Step whose settings are chosen.")
    reference: str = Field(..., title="Reference", description="Reference of the trade-off.")
    expert: str = Field(..., title="Expert", description="Expert of the trade-off.")
    general: str = Field(
        ...,
        pattern=r"^[^:]+:.+$",
        title="General",
        description="General axis on validation rows, BENCH:METRIC.",
    )
    domain: str = Field(
        ...,
        pattern=r"^[^:]+:.+$",
        title="Domain",
        description="Domain axis on validation rows, BENCH:METRIC.",
    )
    keep: float = Field(
        0.98,
        gt=0,
        title="Keep",
        description="Least retention of the general score; the largest gain above it is chosen.",
    )
    test: str = Field(
        ..., title="Test", description="Experiment that tests the choice: a file or a name."
    )

    def claims(self) -> tuple[ClaimSpec, ClaimSpec]:
        """Return gain and retention on the validation rows, as claims about every setting."""

        def claim(figure: Figure) -> ClaimSpec:
            return ClaimSpec(
                text=figure,
                of=self.of,
                figure=figure,
                reference=self.reference,
                expert=self.expert,
                general=self.general,
                domain=self.domain,
            )

        return claim("gain"), claim("retention")


@dataclass(frozen=True)
class Candidate:
    """One of the settings, with its gain and retention on the validation rows."""

    settings: Mapping[str, object]
    gain: float | None
    retention: float | None
    note: str = ""


def candidates(results: Sequence[ClaimResult]) -> list[Candidate]:
    """Return the settings with their values, from the results of `ChooseSpec.claims`."""
    gains = [result for result in results if result.claim.figure == "gain"]
    kept = [result for result in results if result.claim.figure == "retention"]
    return [
        Candidate(
            gain.settings,
            gain.effect.value if gain.effect else None,
            keep.effect.value if keep.effect else None,
            gain.note or keep.note,
        )
        for gain, keep in zip(gains, kept, strict=True)
    ]


def best_of(found: Sequence[Candidate], keep: float) -> Candidate | None:
    """Return the candidate of the largest gain among those that keep enough; None if none does."""
    known = [
        (c.gain, c.retention, c)
        for c in found
        if c.gain is not None and c.retention is not None and math.isfinite(c.gain)
    ]
    enough = [entry for entry in known if entry[1] >= keep]
    return max(enough, key=lambda entry: entry[:2], default=(0.0, 0.0, None))[2]


def as_overrides(settings: Mapping[str, object]) -> list[str]:
    """Return chosen settings as overrides of the experiment that tests them."""
    return [f"steps.{key}={json.dumps(value)}" for key, value in settings.items()]


def check_choice(
    spec: ChooseSpec | None, planned: Collection[SettingsOfRun], steps: Sequence[str], where: str
) -> None:
    """Refuse a choice of an unknown step, or among settings that could not be tested elsewhere.

    Raises:
        ConfigError: names the field.
    """
    if spec is None:
        return
    if spec.of not in steps:
        raise ConfigError(
            f"unknown step {spec.of!r}",
            where=f"{where}: choose.of",
            hint=f"steps: {', '.join(steps)}",
        )
    for run in planned:
        loose = [key for key in without_seed(run.settings) if key.partition(".")[0] not in steps]
        if run.step == spec.of and loose:
            raise ConfigError(
                f"{loose[0]} does not say which step it belongs to, so it cannot be set in the "
                f"experiment that tests the choice",
                where=f"{where}: vary",
                hint=f"prefix the step: {spec.of}.{loose[0]}",
            )


def choice_lines(found: Sequence[Candidate], best: Candidate | None, keep: float) -> list[str]:
    """Format the settings with their values on the validation rows, the chosen one marked."""
    lines = ["on validation rows:"]
    for one in found:
        name = (
            ", ".join(f"{key} {value}" for key, value in one.settings.items()) or "as in the file"
        )
        values = (
            one.note or "no values"
            if one.gain is None or one.retention is None
            else f"gain {one.gain:.3f}, retention {one.retention:.3f}"
        )
        lines.append(f"  {'*' if one is best else ' '} {name}: {values}")
    if best is None:
        lines.append(f"nothing keeps {keep:g} of the general score: nothing is tested")
    return lines
