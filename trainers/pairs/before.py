"""The same checks inside a run, before its first step, on what the run has loaded."""

from __future__ import annotations

from kdharness.trainers.context import TrainContext
from kdharness.trainers.engines import uses_fsdp
from kdharness.trainers.pairs.check import check_static
from kdharness.trainers.pairs.first_step import KL, compare, measuring, say_of_reference
from kdharness.trainers.pairs.result import Checks, ok
from kdharness.trainers.pairs.roles import teacher_roles
from kdharness.trainers.step import Objective
from kdharness.trainers.teachers.online import AdapterTeacher, OnlineTeacher

_SAID = ("end labelled", "answers")
"""Checks whose notes a run says when it reads its rows."""


def check_run(setting: TrainContext) -> Checks:
    """Check a run before its teachers are loaded.

    Raises:
        KDHarnessError: what the first check with the status `stop` found.
    """
    checks = Checks()
    start = setting.start.path
    check_static(setting.config, setting.tokenizer, setting.train, start, setting.job.paths, checks)
    _refuse(setting, checks)
    return checks


def check_first_step(setting: TrainContext, method: Objective, checks: Checks) -> None:
    """Compare the loaded teachers with the student on a few rows, and report every check.

    Raises:
        ModelError: the first loss is not a number.
    """
    say_of_reference(setting.config, checks)
    for role in teacher_roles(setting.config):
        if role.kind is not None and role.kind not in setting.kinds:
            checks.append(ok(KL, role.role, "not measured: it teaches no row"))
            continue
        number = 0 if role.kind is None else setting.kinds.index(role.kind)
        teacher = method.teachers.get(number)
        if uses_fsdp():
            checks.append(ok(KL, role.role, "not measured: the models are sharded"))
        elif not isinstance(teacher, AdapterTeacher | OnlineTeacher):
            checks.append(ok(KL, role.role, "not measured: the teacher is read from its cache"))
        else:
            with measuring(role, checks):
                compare(
                    setting.config,
                    role,
                    setting.student,
                    teacher,
                    setting.tokenizer,
                    setting.train,
                    checks,
                    setting.precision,
                )
    _refuse(setting, checks)
    notes = [check for check in checks if check.status == "note"]
    reporter = setting.job.reporter
    for check in notes:
        repeated = check.check == "positions" and check.of == "student"
        if check.check not in _SAID and not repeated:
            reporter.say(check.line(), kind="warning")
    reporter.say(
        f"checked before the first step: {len(checks) - len(notes)} ok, {len(notes)} to note",
        checks=[check.row() for check in checks],
    )


def _refuse(setting: TrainContext, checks: Checks) -> None:
    """Raise the first error of the checks; say the others."""
    stops = checks.stops
    for check in stops[1:]:
        setting.job.reporter.say(check.line(), kind="warning")
    if stops and stops[0].error is not None:
        raise stops[0].error
