"""The selection: order, the pair that is compared, the default pair, and its chip."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from kdharness.harness.types import Checkpoint
from kdharness.tui.viewmodels.selection import Selection, newest_pair, shortened

NAMES = st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=6, unique=True)


@settings(max_examples=40, deadline=None)
@given(NAMES, st.integers(0, 8), st.integers(-9, 9))
def test_swapping_twice_and_turning_round_change_nothing(
    names: list[str], at: int, by: int
) -> None:
    selection = Selection(tuple(names), 1 + at % max(len(names) - 1, 1))
    assert selection.swapped().swapped() == selection
    assert selection.turned(by).turned(-by) == selection
    if selection.is_pair:
        swapped = selection.swapped()
        assert (swapped.base, swapped.other) == (selection.other, selection.base)


@settings(max_examples=40, deadline=None)
@given(NAMES, st.integers(0, 8), st.integers(0, 8))
def test_unmarking_keeps_the_other_one_unless_it_is_gone(
    names: list[str], at: int, out: int
) -> None:
    selection = Selection(tuple(names), 1 + at % max(len(names) - 1, 1))
    name = names[out % len(names)]
    left = selection.toggled(name)
    assert left.names == tuple(n for n in names if n != name)
    assert name not in (left.base, left.other)
    if selection.other in left.names[1:]:
        assert left.other == selection.other


@settings(max_examples=40, deadline=None)
@given(NAMES, st.integers(12, 120))
def test_the_chip_fits_and_names_the_base_first(names: list[str], room: int) -> None:
    parts = Selection(tuple(names[:4])).chip(room)
    width = sum(cell_len(text) for text, _ in parts)
    assert width <= max(room, 3 * len(names[:4]) + 8)
    assert "\n" not in "".join(text for text, _ in parts)
    assert [on for text, on in parts if text not in (" vs ", ", ")][:2] == [True, True][
        : len(names)
    ]


def test_the_chip_reads_as_a_sentence() -> None:
    def text(*names: str) -> str:
        return "".join(part for part, _ in Selection(names).chip(60))

    assert text("kd", "dae") == "kd vs dae"
    assert text("kd", "dae", "sft") == "kd vs dae, sft"
    assert text() == ""


def test_long_names_keep_the_ends_that_tell_them_apart() -> None:
    names = [f"sweep-lr0e-4-temperature2-seed{seed}" for seed in (105, 106)]
    short = [shortened(name, 20) for name in names]
    assert short[0] != short[1] and all(cell_len(s) <= 20 and "…" in s for s in short)


def checkpoints(*names: str) -> list[Checkpoint]:
    return [Checkpoint(id=f"id-{n}", name=n, method="kd", path="", created=0) for n in names]


def scored(**benches: str) -> list[dict[str, object]]:
    return [
        {"checkpoint": f"id-{name}", "bench": bench, "revision": "r", "judge": "exact"}
        for name, words in benches.items()
        for bench in words.split()
    ]


def test_the_default_pair_shares_a_scored_benchmark() -> None:
    known = checkpoints("a", "b", "c", "new", "bare")
    groups = scored(a="shop", b="shop ifeval", c="shop", new="mine")
    assert newest_pair(known, groups) == ("b", "c")
    assert newest_pair(known, scored(a="shop", new="mine")) == ("new",)
    assert newest_pair(known, []) == ()
    assert newest_pair(known, groups, "a") == ("a", "c")
    assert newest_pair(known, groups, "bare") == ("bare",)
