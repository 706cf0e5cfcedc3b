"""What a pane shows of a run."""

from __future__ import annotations

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.viewmodels.drawings import Around
from kdharness.tui.viewmodels.overview import run_overview
from support.tui_home import NOW


def test_the_log_of_a_long_run_ends_with_its_newest_events(filled: Paths) -> None:
    notes = [(NOW - 900, "note", f"note {n}", {}) for n in range(10_005)]
    with Store(filled.store) as store:
        store.add_progress("dae", events=notes)
        store.add_event("dae", "warning", "slow disk")
        store.add_event("dae", "ended", "out of memory")
        run = store.run("dae")
        assert run is not None
        blocks = run_overview(store, filled, run, Around(NOW, 36))
    log = [block[1] for block in blocks[-5:] if isinstance(block, list)]
    assert log == [
        ("note 10002", ""),
        ("note 10003", ""),
        ("note 10004", ""),
        ("slow disk", "warn"),
        ("out of memory", "bad"),
    ]
