"""New run: a form from a preset or an earlier run, with a plan before the start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel
from textual.binding import Binding, BindingType

from kdharness.harness.config.files import load_config, parse_stored, preset_names, preset_text
from kdharness.harness.config.summary import models_of
from kdharness.harness.config.training import config_hash, known_config
from kdharness.harness.errors import ConfigError
from kdharness.harness.registry import TRAINERS
from kdharness.harness.types import Run
from kdharness.tui.screens.dialogs import Choose, PickFile
from kdharness.tui.screens.form import FormScreen
from kdharness.tui.screens.form_tools import FIX
from kdharness.tui.viewmodels.estimates import training
from kdharness.tui.viewmodels.form import expand_short_forms, fitting
from kdharness.tui.viewmodels.rows import Column
from kdharness.tui.widgets.form_sheet import FormSheet

METHODS = {
    "sft": "supervised fine-tuning on the answers",
    "kd": "distil a teacher's distributions and attention",
    "dae": "domain rows follow an expert, general rows a reference",
    "merge": "combine weights without training",
}
FIRST_PRESETS = ("kd-laptop", "sft-laptop")


def methods() -> dict[str, str]:
    """Return every method that trains, those of installed packages too, with what it does."""
    return METHODS | dict.fromkeys(TRAINERS.plugins(), "from an installed package")


def trains(method: object) -> bool:
    """Return whether a value, which YAML may make anything, is the name of a method."""
    return isinstance(method, str) and method in methods()


def preset_values(name: str) -> dict[str, Any]:
    """Return a preset as plain values."""
    values = yaml.safe_load(preset_text(name))
    return dict(values)


class NewRunScreen(FormScreen):
    """Fill in a config, see its plan, start it."""

    place = "new"
    title_text = "New run"
    about = (
        "All fields of the method, with help, default and limits below; errors show next to the "
        "field while you type. {new.preset:p} loads a preset, {new.copy:c} the config of an "
        "earlier run, {new.file:i} a file; {new.method:m} chooses the method; {form.diff:d} shows "
        "the differences from where you started, {form.yaml:y} the YAML for `kdharness train`, "
        "{new.rows:r} the first rows as the model sees them. {form.edit:e} opens the YAML in your "
        "editor (VISUAL or EDITOR). {form.start:s} shows the plan and starts."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "preset", "Preset", id="new.preset"),
        Binding("m", "method", "Method", id="new.method"),
        Binding("r", "rows", "Rows", id="new.rows"),
        Binding("c", "copy", "Copy a run", show=False, id="new.copy"),
        Binding("i", "file", "Open a file", show=False, id="new.file"),
    ]

    def __init__(self, config: Mapping[str, object] | None = None, base: str = "") -> None:
        self.fresh = config is None
        if config is None:
            name = next((n for n in FIRST_PRESETS if n in preset_names()), preset_names()[0])
            values = preset_values(name)
            super().__init__(values, values, f"preset {name}")
        else:
            values = short_config(config)
            super().__init__({**values, "name": None}, values, f"run {base}")
            self.values.pop("name", None)

    def on_mount(self) -> None:
        """Go on with a draft: the newest, or that of the run which was copied."""
        super().on_mount()
        if self.restore(None if self.fresh else self.origin):
            self.rebuild()
            text = self.harness.with_keys(
                "your draft is back; {new.preset:p} starts over from a preset"
            )
            self.notify(text, timeout=5, markup=False)

    def heading(self) -> str:
        """Return the title with the method."""
        return f"New run: {self.values['method']}"

    def take(self, values: Mapping[str, object], origin: str) -> None:
        """Start over from these values."""
        if not trains(values.get("method")):
            self.harness.complain(f"{origin}: not a training config")
            return
        try:
            model = known_config(values["method"])
        except ConfigError as error:
            self.harness.complain(f"{origin}: {error}")
            return
        self.keep_draft()
        self.values = expand_short_forms(model, dict(values))
        self.base = expand_short_forms(model, dict(values))
        self.origin = origin
        self.query_one(FormSheet).cursor = 0
        self.rebuild()

    def model_for(self, values: Mapping[str, object]) -> type[BaseModel]:
        """Return the model of edited values, which may change to another method."""
        if not trains(values.get("method")):
            known = ", ".join(methods())
            raise ConfigError(f"method: {values.get('method')!r} is none of {known}")
        return known_config(values["method"])

    # ------------------------------------------------------------ starting points

    def action_preset(self) -> None:
        """Load a preset."""
        rows = []
        for name in preset_names():
            lines = preset_text(name).splitlines()
            what = " ".join(line[1:].strip() for line in lines if line.startswith("#"))
            rows.append({"id": name, "what": what})
        columns = [Column("id", "preset", 18), Column("what", "", 40, grow=1)]

        def chosen(names: list[str] | None) -> None:
            if names:
                self.take(preset_values(names[0]), f"preset {names[0]}")

        self.app.push_screen(Choose("Presets", rows, columns), chosen)

    def action_method(self) -> None:
        """Switch to another method, keeping the common fields."""
        rows = [{"id": name, "what": what} for name, what in methods().items()]
        columns = [Column("id", "method", 8), Column("what", "", 40, grow=1)]

        def chosen(names: list[str] | None) -> None:
            if names and names[0] != self.values["method"]:
                try:
                    model = known_config(names[0])
                except ConfigError as error:
                    self.harness.complain(str(error))
                    return
                values = fitting(model, self.values)
                self.values = {**values, "method": names[0]}
                self.query_one(FormSheet).cursor = 0
                self.rebuild()

        self.app.push_screen(
            Choose("Method", rows, columns, current=str(self.values["method"])), chosen
        )

    def action_copy(self) -> None:
        """Load the config of a run; d shows later changes."""
        runs = {run.id: run for run in self.harness.store.runs() if run.method in methods()}
        rows = [
            {"id": run.id, "method": run.method, "models": models_of(run.config)}
            for run in runs.values()
        ]
        columns = [
            Column("id", "run", 16),
            Column("method", "kind", 5),
            Column("models", "models", 20, grow=1),
        ]

        def chosen(names: list[str] | None) -> None:
            if names:
                values = short_config(runs[names[0]].config)
                values.pop("name", None)
                self.take(values, f"run {names[0]}")

        self.app.push_screen(Choose("Copy from", rows, columns), chosen)

    def action_file(self) -> None:
        """Load a YAML file."""

        def chosen(path: str | None) -> None:
            if path:
                self.harness.in_thread(
                    lambda: load_config(path).model_dump(
                        mode="json", by_alias=True, exclude_unset=True
                    ),
                    lambda values: self.take(values, path),
                )

        self.app.push_screen(PickFile("A config", suffixes=(".yaml", ".yml")), chosen)

    # ------------------------------------------------------------ start

    def action_start(self) -> None:
        """Show the plan and ask to start the run."""
        config = self.checked.config
        if config is None:
            self.action_error()
            self.harness.complain(self.harness.with_keys(FIX))
            return
        known = plan_text(config, self.harness.store.runs())
        plan = training if config.method != "merge" else None
        self.harness.ask_to_start(f"Start this {config.method} run?", known, config, plan)


def short_config(config: Mapping[str, object]) -> dict[str, Any]:
    """Return a stored config without the values that equal the defaults."""
    try:
        parsed = parse_stored(dict(config))
    except Exception:  # an old store may have configs with other fields: show them as they are
        return dict(config)
    values = parsed.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {"method": config["method"], **values}


def plan_text(config: Any, runs: list[Run]) -> str:
    """Return what a start would do, as lines."""
    values = config.model_dump(mode="json", by_alias=True)
    lines = [models_of(values)]
    if config.method == "merge":
        made = ", ".join(config.checkpoints(config.name or "the run's name"))
        return f"{lines[0]}\n{config.kind}: creates {made} without training"
    trainer = values["trainer"]
    train = ", ".join(source["path"] for source in values["data"]["train"])
    lines.append(f"on {train}, rows truncated to {values['data']['max_length']} tokens")
    epochs = trainer["epochs"]
    length = f"{epochs:g} epoch{'s' * (epochs != 1)}"
    if trainer["max_steps"] is not None:
        length = f"{trainer['max_steps']} steps"
    if trainer["max_tokens"] is not None:
        length = f"{trainer['max_tokens']:,} tokens"
    rows = trainer["batch_size"] * trainer["accumulation"]
    lines.append(f"{length}, batch size {rows}, learning rate {trainer['learning_rate']:g}")
    held = ", ".join(source["path"] for source in values["data"]["heldout"])
    lines.append(f"held out: {held or 'none, so no held-out loss'}")
    identity = config_hash(config)
    same = [run.id for run in runs if run.config_hash == identity]
    if same:
        lines.append(f"the same config was already run: {', '.join(same[:3])}")
    return "\n".join(lines)
