"""Gain, retention, Pareto front and hypervolume of points on two axes. Pure, without numpy.

With D the domain score and G the general one, both oriented so that higher is better:

    gain       (D − D_ref) / (D_expert − D_ref)      0: the reference, 1: the whole expert
    retention  G / G_ref for scores, G_ref / G for losses      1: nothing lost
"""

from __future__ import annotations

from collections.abc import Sequence


def gain(domain: float, reference: float, expert: float) -> float | None:
    """Return the share of the expert's domain gain; None if the expert gained nothing."""
    span = expert - reference
    return (domain - reference) / span if span else None


def retention(general: float, reference: float, *, lower_is_better: bool) -> float | None:
    """Return the share of the reference's general score that is retained; None if it is zero."""
    top, bottom = (reference, general) if lower_is_better else (general, reference)
    return top / bottom if bottom else None


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which points are not dominated: no other is as good on both axes and better on one."""
    return [
        not any(x >= px and y >= py and (x > px or y > py) for x, y in points) for px, py in points
    ]


def hypervolume(points: Sequence[tuple[float, float]], floor: tuple[float, float]) -> float:
    """Return the area dominated by the points above `floor`; higher is better on both axes."""
    above = sorted(
        ((x, y) for x, y in points if x > floor[0] and y > floor[1]), key=lambda p: (-p[0], -p[1])
    )
    area, height = 0.0, floor[1]
    for x, y in above:
        if y > height:
            area += (x - floor[0]) * (y - height)
            height = y
    return area
