"""The layout of a micro-batch against boolean masks."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdharness.trainers.data.layout import Layout, Part, layout_of
from kdharness.trainers.losses.fused import labelled_positions


def make_rows(rows: int, width: int, seed: int, side: str) -> dict[str, Tensor]:
    """Make random rows of one token or more, padded on one side, with random labels."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows, 1), generator=g)
    place = torch.arange(width)
    keys = (place < lengths) if side == "right" else (place >= width - lengths)
    ids = torch.randint(1, 90, (rows, width), generator=g)
    labelled = (torch.rand(rows, width, generator=g) < 0.4) & keys
    return {
        "input_ids": ids.where(keys, 0),
        "attention_mask": keys.long(),
        "labels": ids.where(labelled, -100),
        "kind": torch.randint(0, 3, (rows,), generator=g),
        "index": torch.arange(rows) + 50,
    }


def assert_part(layout: Layout, part: Part, batch: dict[str, Tensor]) -> None:
    """Check a part's places against a boolean index over its rows."""
    mask = labelled_positions(batch["labels"]) & batch["attention_mask"].bool()
    chosen = torch.zeros_like(mask)
    chosen[list(part.rows)] = True
    chosen &= mask
    wanted = batch["input_ids"][chosen]
    assert torch.equal(batch["input_ids"].flatten()[part.positions], wanted)
    assert torch.equal(part.cut(batch["input_ids"]).flatten()[part.inside], wanted)
    assert torch.equal(layout.targets[part.order], batch["labels"].roll(-1, 1)[chosen])
    assert list(part.sizes) == mask[list(part.rows)].sum(-1).tolist()
    assert list(part.index) == batch["index"][list(part.rows)].tolist()
    # Every token of the rows is kept, and their first and last columns hold one.
    keys = part.cut(batch["attention_mask"])
    assert torch.equal(keys.sum(-1), batch["attention_mask"][list(part.rows)].sum(-1))
    assert part.whole or bool(keys[:, 0].any() and keys[:, -1].any())


@given(
    st.integers(1, 5), st.integers(1, 9), st.integers(0, 10_000), st.sampled_from(["right", "left"])
)
def test_layout_agrees_with_boolean_masks(rows: int, width: int, seed: int, side: str) -> None:
    batch = make_rows(rows, width, seed, side)
    layout = layout_of(batch)
    mask = labelled_positions(batch["labels"]) & batch["attention_mask"].bool()
    assert layout.every.rows == tuple(range(rows)) and layout.every.whole
    assert layout.places == tuple(tuple(row.nonzero().flatten().tolist()) for row in mask)
    assert layout.columns.tolist() == [column for row in layout.places for column in row]
    assert (layout.labelled, layout.tokens) == (int(mask.sum()), int(batch["attention_mask"].sum()))
    kinds = {kind: batch["kind"].eq(kind).nonzero().flatten().tolist() for kind in range(3)}
    assert {kind: list(part.rows) for kind, part in layout.kinds.items()} == {
        kind: found for kind, found in kinds.items() if found
    }
    for part in (layout.every, *layout.kinds.values(), layout.part([rows - 1])):
        assert_part(layout, part, batch)
    padded = bool((batch["attention_mask"].sum(-1) < width).any())
    assert layout.masked is (side == "left" and padded)


def test_layout_moves_with_its_tensors() -> None:
    layout = layout_of(make_rows(3, 6, 1, "right")).to("meta")
    parts = [layout.every, *layout.kinds.values(), layout.part([1])]
    assert all(part.positions.device.type == part.at.device.type == "meta" for part in parts)
    assert layout.targets.device.type == "meta" and layout.labelled == len(layout.targets)
