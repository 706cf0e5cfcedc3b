"""The parts without widgets: thinning, ticks, forms from models, differences, harmless lines."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from kdharness.harness.analysis.curves import downsample, smooth
from kdharness.harness.analysis.published import PAPER_ROWS, paper_scores
from kdharness.harness.analysis.side_by_side import flips
from kdharness.harness.config.files import load_config, parse_config, preset_names, preset_text
from kdharness.harness.config.summary import config_diff, models_of
from kdharness.harness.config.training import CONFIGS
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.text import figure
from kdharness.tui.screens.new_run import short_config
from kdharness.tui.viewmodels.compare import load
from kdharness.tui.viewmodels.curves import CurveBook
from kdharness.tui.viewmodels.form import (
    MISSING,
    check,
    fields_of,
    get_value,
    set_value,
    spelled_out,
    text_of,
    value_of,
    yaml_text,
)
from kdharness.tui.viewmodels.marks import interval_text
from kdharness.tui.viewmodels.rows import text_lines
from kdharness.tui.viewmodels.transcripts import marked_lines
from kdharness.tui.widgets.canvas import Canvas, Scale, tick_text, ticks
from kdharness.tui.widgets.text_view import wrap_line

VALUES = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(VALUES, min_size=1, max_size=3000), st.integers(1, 120))
def test_thinning_keeps_the_extremes_and_the_ends(values: list[float], buckets: int) -> None:
    points = list(enumerate(values))
    kept = downsample(points, buckets)
    assert len(kept) <= max(4 * buckets, 4)
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert max(y for _, y in kept) == max(values) and min(y for _, y in kept) == min(values)
    assert [x for x, _ in kept] == sorted({x for x, _ in kept})


def test_a_long_growing_curve_stays_short_and_keeps_its_spike() -> None:
    book = CurveBook()
    for start in range(0, 60_000, 7_000):
        steps = range(start, min(start + 7_000, 60_000))
        book.add("r", "loss", [(float(i), 99.0 if i == 31_415 else 1.0) for i in steps])
        book.ready("r", "loss", None, 0.0, 100)
    drawn = book.ready("r", "loss", None, 0.0, 100)
    assert len(drawn) <= 400 and (31_415.0, 99.0) in drawn and drawn[-1] == (59_999.0, 1.0)
    whole = book.ready("r", "loss", None, 0.9, 100)
    assert 1.0 < max(y for _, y in whole) < 20
    part = book.ready("r", "loss", (31_000.0, 32_000.0), 0.9, 100)
    assert max(y for _, y in part) == pytest.approx(max(y for _, y in whole), rel=1e-3)
    assert part[0][0] >= 30_999 and part[-1][0] <= 32_001


def test_smoothing_starts_at_the_first_value_and_skips_what_is_no_number() -> None:
    points = [(0.0, 4.0), (1.0, math.nan), (2.0, 4.0), (3.0, 0.0)]
    out = smooth(points, 0.9)
    assert out[0] == (0.0, 4.0) and out[1] == (2.0, 4.0) and 0 < out[2][1] < 4


@given(st.floats(-1e5, 1e5), st.floats(1e-4, 1e5), st.integers(2, 12))
def test_ticks_are_round_inside_and_told_apart(low: float, span: float, count: int) -> None:
    found = ticks(low, low + span, count)
    assert all(low - span * 1e-6 <= v <= low + span * (1 + 1e-6) for v in found)
    assert len(found) <= count + 1
    texts = [tick_text(v, found) for v in found]
    assert span < abs(low) * 1e-5 or len(set(texts)) == len(texts)


def test_log_scale_and_backward_scale() -> None:
    scale = Scale(0.1, 1000, 101, log=True)
    assert [scale.place(v) for v in (0.1, 10, 1000)] == [0, 50, 100]
    assert Scale(1, 3, 101, reverse=True).place(3) == 0
    assert scale.place(-1) == 0  # what has no logarithm stays on the canvas


def test_a_canvas_draws_in_dots_and_letters_on_top() -> None:
    canvas = Canvas(4, 2)
    canvas.line(0, 0, 7, 7, "series-1")
    canvas.put(3, 0, "A", "series-2")
    assert canvas.row(0)[-1] == ("A", "series-2")
    assert any("\u2800" < char <= "\u28ff" for text, _ in canvas.row(0) for char in text)


def test_intervals_are_drawn_with_their_zero() -> None:
    text = interval_text(-1, 0.5, 2, -2, 2, 41, zero=0.0)
    assert text[20] == "┼" and text.index("├") == 10 and text.index("●") == 25 and text[40] == "┤"
    assert len(interval_text(0, 0, 0, 0, 0, 10)) == 10


def test_figures_and_names_for_people() -> None:
    assert [figure(v) for v in (None, math.nan, math.inf, 0.00002, 1234567, 0.5)] == [
        "–",
        "–",
        "∞",
        "2.0e-05",
        "1,234,567",
        "0.5",
    ]
    config = {
        "method": "kd",
        "student": {"from": "teacher", "keep_layers": 12},
        "teacher": {"model": "/models/big"},
    }
    assert models_of(config) == "teacher/12 ← big"


def test_config_diff_names_fields() -> None:
    one = {"a": 1, "data": {"train": [{"path": "x"}]}}
    two = {"a": 1, "data": {"train": [{"path": "y"}]}, "b": True}
    assert config_diff(one, two) == [("data.train.0.path", ["x", "y"]), ("b", [None, True])]


# ---------------------------------------------------------------- forms


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_fills_a_form_and_comes_out_the_same(name: str, tmp_path: Path) -> None:
    raw = yaml.safe_load(preset_text(name))
    model = CONFIGS[raw["method"]]
    values = spelled_out(model, raw)
    fields = fields_of(model, values)
    assert all(field.title for field in fields)
    file = tmp_path / "config.yaml"
    file.write_text(yaml_text(values), "utf-8")
    assert load_config(file) == parse_config(raw)


@pytest.mark.parametrize("method", list(CONFIGS))
def test_every_field_of_every_method_is_a_row(method: str) -> None:
    fields = fields_of(CONFIGS[method], {"method": method})
    names = {field.place[0] for field in fields}
    wanted = {i.alias or n for n, i in CONFIGS[method].model_fields.items()} - {"method"}
    assert names == wanted


@pytest.mark.parametrize("name", preset_names())
def test_text_and_value_of_each_field_are_inverse(name: str) -> None:
    raw = yaml.safe_load(preset_text(name))
    model = CONFIGS[raw["method"]]
    values = spelled_out(model, raw)
    for field in fields_of(model, values):
        value = get_value(values, field.place)
        if field.kind in ("group", "groups", "mapping", "item") or value is MISSING:
            continue
        assert value_of(field, text_of(value)) == value, field.id


def test_errors_stand_at_their_fields() -> None:
    values = {
        "method": "kd",
        "student": {"model": ""},
        "teacher": {},
        "data": {"train": [{"path": "x", "weight": -1}]},
        "trainer": {"learning_rate": "fast", "layer_map": "odd"},
    }
    errors = check(values).errors
    assert "greater than 0" in errors["data", "train", 0, "weight"]
    assert "valid number" in errors["trainer", "learning_rate"]
    assert errors["teacher", "model"] == "is needed"
    assert ("trainer", "layer_map") in errors


def test_setting_and_taking_away_places() -> None:
    values = set_value({}, ("data", "train", 0), {"path": "a"})
    values = set_value(values, ("data", "train", 1, "path"), "b")
    assert values == {"data": {"train": [{"path": "a"}, {"path": "b"}]}}
    assert set_value(values, ("data", "train", 0), MISSING)["data"]["train"] == [{"path": "b"}]


def test_a_stored_config_comes_back_short() -> None:
    full = parse_config(yaml.safe_load(preset_text("kd-laptop"))).model_dump(
        mode="json", by_alias=True
    )
    short = short_config(full)
    assert "schedule" not in short["trainer"] and parse_config(short) == parse_config(full)


# ---------------------------------------------------------------- comparing


def test_differences_pair_items_and_leave_out_what_cannot_be_paired(filled: Paths) -> None:
    with Store(filled.store) as store:
        found = load(store, filled, ["sft", "kd", "expert"])
    lines = {(line.bench, line.metric): line.others for line in found.lines}
    loss = lines["heldout", "domain_loss"]
    assert loss["expert"].verdict == "better" and loss["expert"].gap.high < 0
    assert loss["kd"].p_holm >= loss["kd"].gap.p
    assert lines["mt-bench", "score"]["kd"].gap.n == 7  # q6 of sft cannot be read
    moved = flips(found.sides[0].table, found.sides[2].table)
    assert moved and all(f.bench != "heldout" for f in moved)
    assert [f.flipped for f in moved] == sorted((f.flipped for f in moved), reverse=True)


def test_the_papers_table_is_whole() -> None:
    assert len(PAPER_ROWS) == 16
    best = max((s for s in paper_scores() if s.bench == "mt-bench"), key=lambda s: s.value or 0)
    assert (best.checkpoint, best.value) == ("GPT-4", 8.99)


# ---------------------------------------------------------------- text


@given(st.text(max_size=300), st.integers(4, 60))
def test_wrapped_lines_fit_and_lose_nothing_but_spaces(text: str, width: int) -> None:
    for line in text_lines(text):
        pieces = wrap_line(line, width)
        assert all(sum(cell_len(part) for part, _ in piece) <= width for piece in pieces)
        joined = "".join(part for piece in pieces for part, _ in piece)
        assert joined.replace(" ", "") == "".join(part for part, _ in line).replace(" ", "")


def test_a_megabyte_on_a_line_is_wrapped_at_once() -> None:
    import time

    began = time.perf_counter()
    for text in ("x" * 1_000_000, "é" * 1_000_000, "\u202e" * 1_000_000, "a\u0301" * 500_000):
        lines = text_lines(text)
        assert sum(len(wrap_line(line, 40)) for line in lines) > 100
    assert time.perf_counter() - began < 6


def test_differing_words_are_marked() -> None:
    line = marked_lines("the cat sat", "the dog sat")[0]
    assert [text for text, role in line if role == "accent"] == ["cat"]
