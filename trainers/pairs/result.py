"""The result of one check of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Literal

from kdharness.harness.errors import KDHarnessError

Status = Literal["ok", "note", "stop"]


@dataclass(frozen=True)
class PairCheck:
    """One check of a model, a pair of models, or the rows.

    Attributes:
        check: what was checked.
        of: whose: `student`, a teacher's role, or the path of a source of rows.
        status: `ok`; `note`, worth knowing; `stop`, a run would be refused or teach nothing.
        detail: one sentence.
        advice: what to do; empty where there is nothing to do.
        values: the numbers in `detail`.
        error: what a run is refused with, where the status is `stop`.
    """

    check: str
    of: str
    status: Status
    detail: str
    advice: str = ""
    values: Mapping[str, object] = field(default_factory=dict)
    error: KDHarnessError | None = None

    def row(self) -> dict[str, object]:
        """Return the check as a row of a listing."""
        row = asdict(self)
        del row["error"]
        return row

    def line(self) -> str:
        """Return the check as a line of a log."""
        advice = f" ({self.advice})" if self.advice else ""
        return f"{self.check} of {self.of}: {self.detail}{advice}"


def ok(check: str, of: str, detail: str, **values: object) -> PairCheck:
    """Return a check that found nothing."""
    return PairCheck(check, of, "ok", detail, values=values)


def note(check: str, of: str, detail: str, advice: str, **values: object) -> PairCheck:
    """Return something worth knowing."""
    return PairCheck(check, of, "note", detail, advice, values)


class Checks(list[PairCheck]):
    """Checks in the order they were made."""

    @contextmanager
    def stopping(self, check: str, of: str) -> Iterator[None]:
        """Turn an error of the body into a check with the status `stop`."""
        try:
            yield
        except KDHarnessError as error:
            where = f" ({error.where})" if error.where else ""
            self.append(
                PairCheck(check, of, "stop", error.message + where, error.hint or "", error=error)
            )

    @property
    def stops(self) -> list[PairCheck]:
        """The checks that a run would be refused for."""
        return [check for check in self if check.status == "stop"]
