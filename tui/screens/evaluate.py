"""Evaluate: checkpoints × benchmarks × judges, with an estimate before the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType

from kdharness.harness.config.evaluation import EvalConfig, bench_name, plain_http_warning
from kdharness.harness.config.settings import default_judges
from kdharness.harness.config.summary import models_of
from kdharness.harness.errors import ConfigError
from kdharness.tui.screens.form import FormScreen
from kdharness.tui.screens.form_tools import FIX
from kdharness.tui.viewmodels.estimates import evaluation
from kdharness.tui.viewmodels.form import FormState, set_value
from kdharness.tui.viewmodels.judges import card_words

JUDGED = ("mt-bench", "mt-bench-pair", "alpaca-eval-1", "alpaca-eval-2", "arena-hard-v2")


class EvaluateScreen(FormScreen):
    """An evaluation as a form; it is started as a run."""

    place = "evaluate"
    title_text = "Evaluate"
    about = (
        "{form.pick:o} on Checkpoints, Benchmarks and Judges opens a list; {dialog.mark:space} "
        "marks entries. Stored answers and judgments are never requested again, so starting twice "
        "costs nothing. ifeval, shop and heldout need no judge. {form.start:s} shows an estimate "
        "and starts; {evaluate.check:c} checks the judge; {evaluate.running:r} opens the newest "
        "evaluation. API keys of judges come only from OPENAI_API_KEY or KDHARNESS_JUDGE_API_KEY."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "running", "Newest", id="evaluate.running"),
        Binding("c", "check_judge", "Check judge", id="evaluate.check"),
    ]

    def __init__(self, checkpoints: Sequence[str] = (), judges: Sequence[str] = ()) -> None:
        values: dict[str, object] = {
            "method": "eval",
            "checkpoints": list(checkpoints),
            "benches": ["shop", "heldout"],
        }
        if judges:
            values["judge"] = list(judges)
        super().__init__(values, {"method": "eval"}, "")

    def on_mount(self) -> None:
        """Fill in the default judge, so that it is visible."""
        super().on_mount()
        try:
            judges = default_judges(self.harness.paths)
        except ConfigError as error:
            self.harness.complain(str(error))
            judges = []
        if judges and "judge" not in self.values:
            self.put(("judge",), judges)
        self.kept = self.values
        if self.restore():
            self.rebuild()

    def look(self) -> FormState:
        """Check the values; unlike the model, require at least one checkpoint."""
        checked = super().look()
        if self.values.get("checkpoints") or self.values.get("imported"):
            return checked
        required = self.harness.with_keys("required: press {form.pick:o} to choose")
        errors = {("checkpoints",): required, **checked.errors}
        return FormState(None, errors)

    def choose(self, checkpoints: Sequence[str]) -> None:
        """Set the checkpoints to evaluate."""
        if checkpoints:
            self.values = set_value(self.values, ("checkpoints",), list(checkpoints))
            self.rebuild()

    def action_running(self) -> None:
        """Open the newest evaluation."""
        runs = self.harness.store.runs("eval")
        if runs:
            self.harness.open_run(runs[0].id)
        else:
            self.notify("no evaluation yet", timeout=3, markup=False)

    async def action_check_judge(self) -> None:
        """Check the first judge without a report card, else the first one."""
        judges = self.values.get("judge") or []
        cards = self.harness.store.cards()
        names = [judges] if isinstance(judges, str) else [str(judge) for judge in judges]
        if names:
            await self.harness.check_judge(next((n for n in names if n not in cards), names[0]))
        else:
            self.notify("no judge is chosen", timeout=3, markup=False)

    def action_start(self) -> None:
        """Show an estimate and ask to start."""
        config = self.checked.config
        if config is None:
            self.action_error()
            self.harness.complain(self.harness.with_keys(FIX))
            return

        known = self.known(config)
        self.harness.ask_to_start("Start this evaluation?", known, config, evaluation)

    def known(self, config: EvalConfig) -> str:
        """Return what is known at once: checkpoints, benchmarks and the judges' cards."""
        cards = self.harness.store.cards()
        lines = [models_of(config.model_dump(mode="json"))]
        check = self.harness.with_keys("{dialog.no:n}, then {evaluate.check:c}")
        asked = [bench for bench in map(bench_name, config.benches) if bench in JUDGED]
        own = [bench for bench in config.benches if bench.endswith(".jsonl")]
        if asked or own:
            if not config.judge:
                names = ", ".join(asked + own)
                lines.append(f"no judge: {names} will be answered but not judged")
            for judge in config.judge:
                untested = "" if judge in cards else f" ({check} checks it)"
                lines.append(f"judge {judge}: {card_words(cards.get(judge))}{untested}")
                if warning := plain_http_warning(judge):
                    lines.append(f"warning: {warning}")
            if config.judge:
                lines.append("stored judgments are reused")
            if config.budget is not None:
                lines.append(f"stops before it exceeds {config.budget:g} US dollars")
        else:
            lines.append("no judge needed")
        return "\n".join(lines)
