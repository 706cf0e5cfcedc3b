"""Draws on the device: pure functions of seed and position, with the right probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from kdharness.harness.paths import Paths
from kdharness.harness.types import Finish, GenerationRequest
from kdharness.judges.engines.kv_cache import PaddingMask
from kdharness.judges.engines.local import LocalEngine
from kdharness.judges.engines.sampling import CHUNK, ROWS, Sampler, draw, limbs, philox

CPU = torch.device("cpu")
TOP = (1 << 21) - 1
FULL = 0xFFFFFFFF
# The published known answers of Philox-4x32-10: counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((FULL,) * 4, (FULL, FULL), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_noise_is_philox(counter: tuple[int, ...], key: tuple[int, int], expected: str) -> None:
    def word(value: int) -> torch.Tensor:
        return torch.tensor([value])

    words = philox(tuple(map(word, counter)), (word(key[0]), word(key[1])))  # type: ignore[arg-type]
    assert " ".join(f"{int(w):08x}" for w in words) == expected


def noise_of(seeds: range, positions: int) -> torch.Tensor:
    """Return fractions in [0, 1) of shape [seeds, positions]."""
    words = torch.tensor([[seed, 0] for seed in seeds])
    high, middle, low = limbs(words, 0, positions).double()
    return ((low / 2**21 + middle) / 2**21 + high) / 2**21


def test_noise_is_uniform_and_independent() -> None:
    """Consecutive seeds and positions, the worst case of a weak hash, give independent draws."""
    noise = noise_of(range(200), 256)
    assert noise.min() >= 0 and noise.max() < 1
    for line in (noise.flatten(), noise[:, 0], noise[0]):
        assert stats.kstest(line, "uniform").pvalue > 0.001
    cells = (noise * 8).long()
    for one, other in ((cells[:, :-1], cells[:, 1:]), (cells[:-1], cells[1:])):
        pairs = torch.bincount((one * 8 + other).flatten(), minlength=64)
        assert stats.chisquare(pairs).pvalue > 0.001
    bits = limbs(torch.tensor([[7, 9]]), 0, 4096)
    ones = torch.stack([(bits >> bit & 1).float().mean() for bit in range(21)])
    assert (ones - 0.5).abs().max() < 4 * 0.5 / (3 * 4096) ** 0.5


def test_drawn_tokens_have_the_categorical_distribution() -> None:
    """Chi-square against the exact shares, and against torch's own draws of the same logits."""
    logits = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 2
    rows, positions, temperature = 400, 50, 0.7
    sampler = Sampler([temperature] * rows, list(range(rows)), CPU)
    tokens = torch.cat([sampler.choose(logits.expand(rows, -1), p) for p in range(positions)])
    shares = (logits.double() / temperature).softmax(-1)
    total = rows * positions
    counts = torch.bincount(tokens, minlength=40)
    common = shares * total > 5
    seen = [*counts[common].tolist(), int(counts[~common].sum())]
    expected = [*(shares[common] * total).tolist(), float(shares[~common].sum() * total)]
    assert stats.chisquare(seen, expected).pvalue > 0.001
    theirs = torch.multinomial(
        shares, total, replacement=True, generator=torch.Generator().manual_seed(1)
    )
    table = torch.stack([counts, torch.bincount(theirs, minlength=40)])[:, common]
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    """Any composition, size and order of the batch, rows that left, greedy neighbours, chunks."""
    logits = torch.randn(6, 997, generator=torch.Generator().manual_seed(0))
    heats: list[float | None] = [0.7, None, 1.0, 1e-3, None, 2.0]
    seeds = [5, 0, 5, (1 << 64) - 3, 9, -3]
    places = (0, 1, CHUNK - 1, CHUNK, 10 * CHUNK + 7)
    alone = {
        (row, place): int(
            Sampler([heats[row]], [seeds[row]], CPU).choose(logits[row : row + 1], place)
        )
        for row in range(6)
        for place in places
    }
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1], [2, 0], [4, 1, 2]):
        sampler = Sampler([heats[r] for r in order], [seeds[r] for r in order], CPU)
        kept = order
        for step, place in enumerate(places):
            chosen = sampler.choose(logits[kept], place).tolist()
            assert chosen == [alone[row, place] for row in kept]
            if step == 1:
                sampler.keep([len(kept) - 1, 0])
                kept = [kept[-1], kept[0]]
    assert [alone[1, p] for p in places] == [int(logits[1].argmax())] * len(places)
    # Equal seeds at one position differ by their logits only; -3 is the seed 2^64 - 3.
    same = Sampler([1.0, 1.0], [-3, (1 << 64) - 3], CPU).choose(logits[[0, 0]], 4).tolist()
    assert same[0] == same[1]


@given(
    st.lists(st.sampled_from([0.0, 0.0, 1e-9, 0.1, 1.0, 3.0]), min_size=1, max_size=12),
    st.tuples(*[st.one_of(st.sampled_from([0, TOP]), st.integers(0, TOP))] * 3),
)
def test_a_token_is_the_exact_inverse_and_never_impossible(
    weights: list[float], noise: tuple[int, int, int]
) -> None:
    """Against Python's whole numbers, at both ends of the range too."""
    if sum(weights) == 0:
        weights[0] = 1.0
    shares = torch.tensor([weights])
    shares = shares / shares.sum()
    token = int(draw(shares, torch.tensor(noise)[:, None]))
    exact = [int(share * 2**40) for share in shares[0].tolist()]
    fraction = (noise[0] << 42) | (noise[1] << 21) | noise[2]
    target = fraction * sum(exact) >> 63
    reached = list(accumulate(exact))
    assert token == next(place for place, sum_ in enumerate(reached) if target < sum_)
    assert shares[0, token] > 0


def test_a_large_batch_is_drawn_as_its_rows_are() -> None:
    logits = torch.randn(2 * ROWS + 3, 101, generator=torch.Generator().manual_seed(2))
    rows = range(len(logits))
    together = Sampler([0.8] * len(rows), list(rows), CPU).choose(logits, 7).tolist()
    alone = [int(Sampler([0.8], [row], CPU).choose(logits[row : row + 1], 7)) for row in rows]
    assert together == alone


def test_rare_tokens_are_drawn_as_often_as_they_should() -> None:
    """A public report: a sum in fp32 never draws the second half, a thousandth of the mass."""
    shares = torch.full((1, 100_000), 1.0)
    shares[:, 50_000:] = 1e-3
    shares /= shares.sum()
    edge = 1000 / 1001
    for fraction in (edge - 1e-6, edge + 1e-6, edge + 5e-4, 1 - 1e-6):
        noise = torch.tensor([[int(fraction * 2**21)], [0], [0]])
        floor = int(fraction * 2**21) / 2**21
        expected = floor * 50_050 if floor < edge else 50_000 + (floor - edge) * 50_050 * 1000
        assert int(draw(shares, noise)) == pytest.approx(expected, abs=30)


def test_large_vocabularies_keep_their_last_tokens() -> None:
    """An fp32 sum of 152,064 equal shares is off by far more than one of them."""
    size = 152_064
    shares = torch.full((3, size), 1 / size)
    ends = torch.tensor([[0, TOP, TOP >> 1], [0, TOP, TOP], [0, TOP, TOP]])
    first, last, middle = draw(shares, ends).tolist()
    assert (first, last) == (0, size - 1) and abs(middle - size // 2) <= 1
    shares[:, -5:] = 0
    assert int(draw(shares, ends)[1]) == size - 6
    one = torch.zeros(1, size)
    one[0, size // 3] = 1
    assert int(draw(one, torch.full((3, 1), TOP))) == size // 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("heat", [None, 0.7])
def test_logits_that_are_no_numbers_give_no_token(bad: float, heat: float | None) -> None:
    logits = torch.randn(3, 10)
    logits[1, 4] = bad
    logits[2, 4] = -float("inf")
    chosen = Sampler([heat] * 3, [1, 2, 3], CPU).choose(logits, 0).tolist()
    assert chosen[1] == -1 and chosen[0] >= 0 and chosen[2] not in (-1, 4)


# ---------------------------------------------------------------- in the engine


def ask(text: str, **settings: Any) -> GenerationRequest:
    return GenerationRequest(({"role": "user", "content": text},), **settings)


def test_a_model_of_nan_gives_errors_and_no_text(paths: Paths, tiny_teacher: Path) -> None:
    engine = LocalEngine(str(tiny_teacher), paths)
    with torch.no_grad():
        engine.model.get_input_embeddings().weight.fill_(float("nan"))
    replies = dict(engine.stream([ask("Hi"), ask("Hi", temperature=0.7, seed=1)]))
    assert all("not a number" in r.error and r.finish is Finish.ERROR for r in replies.values())


class _Waits(TorchDispatchMode):
    """Counts what makes the host wait for the device, or copies to it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal"):
            self.counts["waits"] += 1
        if name == "lift_fresh":
            self.counts["uploads"] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count waits and uploads; on the CPU `tolist` is not dispatched and counted by itself."""
    mode = _Waits()
    with monkeypatch.context() as patch, mode:
        for name in ("tolist", "cpu", "numpy"):
            plain = getattr(torch.Tensor, name)

            def count(self: Any, *args: Any, _plain: Any = plain, **kwargs: Any) -> Any:
                mode.counts["waits"] += 1
                return _plain(self, *args, **kwargs)

            patch.setattr(torch.Tensor, name, count)
        yield mode.counts


@pytest.mark.parametrize("texts", [["Hello"], ["Hello"] * 6, ["Hello", "A longer one " * 9] * 3])
def test_the_host_waits_once_a_token_whatever_the_batch(
    paths: Paths, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    """Beyond that transformers looks once a token whether a padded batch's mask masks anything."""
    engine = LocalEngine(str(tiny_teacher), paths)
    assert engine.model is not None  # loaded, and its end tokens known
    engine.end_tokens = frozenset()
    totals = {}
    for length in (20, 60):
        requests = [
            ask(text, temperature=0.9 * (n % 2), seed=n, max_new_tokens=length)
            for n, text in enumerate(texts)
        ]
        with counted(monkeypatch) as counts:
            replies = dict(engine.stream(requests))
        totals[length] = dict(counts)
        assert len(replies) == len(texts)
    padded = len(set(texts)) > 1
    assert totals[60]["waits"] - totals[20]["waits"] == 40 * (2 if padded else 1)
    assert totals[60].get("uploads", 0) == totals[20].get("uploads", 0)


def test_log_probabilities_of_a_batch_are_one_copy(
    paths: Paths, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(str(tiny_teacher), paths)
    waits = []
    for rows in (1, 8):
        requests = [ask("Which?", max_new_tokens=1, top_logprobs=n + 1) for n in range(rows)]
        with counted(monkeypatch) as counts:
            replies = dict(engine.stream(requests))
        waits.append(counts["waits"])
        assert [len(replies[n].top_logprobs or ()) for n in range(rows)] == list(range(1, rows + 1))
    assert waits[0] == waits[1] <= 2


def test_the_mask_of_a_batch_grows_and_shrinks_with_it() -> None:
    mask = PaddingMask([2, 5, 3], CPU)
    assert mask.positions.tolist() == [[0, 0, 0, 0, 1], [0, 1, 2, 3, 4], [0, 0, 0, 1, 2]]
    wide = mask.of(700)
    assert wide is not None and wide.shape == (3, 700)
    assert wide.sum(-1).tolist() == [697, 700, 698] and wide[:, 3:].all()
    mask.keep([0, 1], torch.tensor([0, 1]))
    narrow = mask.of(6)
    assert narrow is not None and narrow.tolist() == [[0, 0, 0, 1, 1, 1], [1] * 6]
    mask.keep([1], torch.tensor([1]))
    assert mask.of(900) is None
