"""Labelling by people: what can be labelled, in which order, and a session that asks for it.

The mean of a sample stands for the whole only if the sample is random. Items are therefore asked
for in a random order that depends on the seed alone, within strata of items that a judge found
alike (`analysis.label_design`). Stopping at any time leaves a random sample of each stratum, and
different checkpoints are labelled on the same items.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdharness.harness.analysis.judged_answers import current_judgments, judged_answers
from kdharness.harness.analysis.prompts import BenchTexts
from kdharness.harness.stats.metric_specs import EXPECTED_RATING
from kdharness.harness.store import Store
from kdharness.harness.store.labels import Label, sides_of_label, text_digest
from kdharness.harness.types import Answer, Checkpoint, Finish, Judgment, JudgmentStatus, digest

RATING, PAIR = "rating", "pair"
KIND_OF = {"rating": RATING, EXPECTED_RATING: RATING, "pair": PAIR, "preference": PAIR}
"""Metric of a judgment -> metric of the labels that correct it."""
RATING_KEYS = {**{str(n): float(n) for n in range(1, 10)}, "0": 10.0}
PAIR_KEYS = {"a": 1.0, "b": 0.0, "t": 0.5}
SKIP, UNDO = "s", "u"


@dataclass(frozen=True)
class LabelTask:
    """An answer to rate, or to compare with another.

    Attributes:
        name: the checkpoint's name, which is hidden while labelling.
        earlier: the same checkpoint's answers to the turns before.
        baseline: the other side's name; `other` is the id of its answer, empty if it comes with
            the benchmark, and `other_text` the answer itself.
    """

    name: str
    bench: str
    revision: str
    metric: str
    answer: Answer
    earlier: tuple[Answer, ...] = ()
    baseline: str = ""
    other: str = ""
    other_text: str = ""

    @property
    def subject(self) -> tuple[str, str, str]:
        """As `Label.subject`."""
        return self.metric, self.answer.id, self.baseline

    def label(self, value: float | None, labeller: str, created: float) -> Label:
        """Return a label of this answer."""
        return Label(
            created=created,
            labeller=labeller,
            checkpoint=self.answer.checkpoint,
            bench=self.bench,
            revision=self.revision,
            item=self.answer.item,
            turn=self.answer.turn,
            metric=self.metric,
            answer=self.answer.id,
            text=text_digest(self.answer.text),
            value=value,
            baseline=self.baseline,
            other=self.other,
            other_text=text_digest(self.other_text) if self.baseline else "",
        )


def user_name() -> str:
    """Return the user's name; `someone` where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "someone"


def labelable_benches(store: Store, checkpoints: Iterable[str]) -> list[str]:
    """Return the benchmarks on which a judge rated or compared answers of these checkpoints."""
    return store.benches_with(checkpoints, list(KIND_OF))


def label_tasks(
    store: Store, bench: str, checkpoints: Sequence[Checkpoint], texts: BenchTexts
) -> list[LabelTask]:
    """Return every judged answer of some checkpoints to a benchmark, in no particular order.

    An answer without a verdict is left out: there is nothing to correct. So is a pair whose other
    answer is not available.
    """
    tasks: dict[tuple[str, str, str], LabelTask] = {}
    notes = store.bench_notes()
    others: dict[str, list[Answer]] = {}
    for checkpoint in checkpoints:
        answers = {answer.id: answer for answer in store.answers(checkpoint.id)}
        judgments: dict[str, list[Judgment]] = {}
        for judgment in store.judgments(checkpoint.id, bench):
            judgments.setdefault(judgment.item, []).append(judgment)
        for rows in judgments.values():
            judged = [answers[j.answer] for j in rows if j.answer in answers]
            shown, current = judged_answers(judged, current_judgments(rows, notes))
            for j in current:
                answer = answers.get(j.answer or "")
                if answer is None or not _is_labelable(j, answer):
                    continue
                earlier = tuple(a for a in shown if a.turn < answer.turn)
                task = LabelTask(
                    checkpoint.name, bench, j.revision, KIND_OF[j.metric], answer, earlier
                )
                if task.metric == PAIR:
                    task = _against(store, task, j.baseline, texts, others)
                if task.metric == RATING or task.baseline:
                    tasks[task.subject] = task
    return list(tasks.values())


def _is_labelable(judgment: Judgment, answer: Answer) -> bool:
    return (
        judgment.status is JudgmentStatus.OK
        and judgment.judge != "exact"
        and judgment.metric in KIND_OF
        and answer.finish is not Finish.ERROR
    )


def _against(
    store: Store,
    task: LabelTask,
    baseline: str,
    texts: BenchTexts,
    others: dict[str, list[Answer]],
) -> LabelTask:
    """Return the task with its other side; unchanged if that is not available."""
    opponent = store.checkpoint(baseline) if baseline else None
    answer = task.answer
    if opponent is not None:
        if baseline not in others:
            others[baseline] = store.answers(opponent.id, answer.bench)
        same = [
            a
            for a in others[baseline]
            if (a.item, a.turn) == (answer.item, answer.turn) and a.finish is not Finish.ERROR
        ]
        same.sort(key=lambda a: (a.settings == answer.settings, a.created))
        if same:
            return replace(task, baseline=baseline, other=same[-1].id, other_text=same[-1].text)
    elif baseline and answer.item in texts.baselines:
        return replace(task, baseline=baseline, other_text=texts.baselines[answer.item])
    return task


def current_labels(labels: Iterable[Label]) -> list[Label]:
    """Return the labels that count: each person's newest one of an answer, unless withdrawn."""
    newest: dict[tuple[str, tuple[str, str, str]], Label] = {}
    for label in sorted(labels, key=lambda label: (label.created, label.id)):
        newest[label.labeller, label.subject] = label
    return [label for label in newest.values() if label.value is not None]


def valid_labels(store: Store, checkpoint: str | None, bench: str) -> list[Label]:
    """Return the labels that count whose answers are still stored with the labelled texts.

    Args:
        checkpoint: only labels of its answers; None for all.
    """
    labels = current_labels(store.labels(checkpoint, bench))
    texts = store.answer_texts([key for label in labels for key in (label.answer, label.other)])
    return [
        label
        for label in labels
        if texts.get(label.answer) == label.text
        and (not label.other or texts.get(label.other) == label.other_text)
    ]


def random_place(seed: int, bench: str, item: str) -> str:
    """Return an item's place in a benchmark's random order; it depends on the seed alone."""
    return digest("label order", seed, bench, item)


def in_order(tasks: Iterable[LabelTask], seed: int, order: Mapping[str, int]) -> list[LabelTask]:
    """Return the tasks item by item; items without a place in `order` come last, at random."""

    def key(task: LabelTask) -> tuple[int, str, int, str]:
        answer = task.answer
        place = order.get(answer.item, len(order))
        item = random_place(seed, task.bench, answer.item)
        return place, item, answer.turn, digest("label order", seed, task.subject)

    return sorted(tasks, key=key)


def open_tasks(
    tasks: Iterable[LabelTask],
    labels: Iterable[Label],
    labeller: str,
    seed: int,
    order: Mapping[str, int] | None = None,
) -> list[LabelTask]:
    """Return the tasks that a person has not labelled, in random order.

    Of two checkpoints compared with each other, the pair is asked for once.

    Args:
        order: the place of each item, where not all items are equally likely.
    """
    done = {sides_of_label(x) for x in current_labels(labels) if x.labeller == labeller}
    left: list[LabelTask] = []
    for task in in_order(tasks, seed, order or {}):
        sides = sides_of_label(task.label(None, labeller, 0.0))
        if sides not in done:
            left.append(task)
            done.add(sides)
    return left


@dataclass
class LabelSession:
    """Asks for labels one by one, blind. The caller stores each label that `press` returns.

    Attributes:
        tasks: what to label, in order.
        labeller: who.
        seed: of the random order, and of which side of a pair is shown first.
        design: the strata by which items were chosen; empty if all were equally likely.
    """

    tasks: Sequence[LabelTask]
    labeller: str
    seed: int = 0
    design: str = ""
    index: int = 0
    given: list[Label] = field(default_factory=list)
    last: float = 0.0

    @property
    def task(self) -> LabelTask | None:
        """The answer that is asked for; None at the end."""
        return self.tasks[self.index] if self.index < len(self.tasks) else None

    @property
    def progress(self) -> str:
        """Which answer is asked for, such as `7 of 20`."""
        return f"{min(self.index + 1, len(self.tasks))} of {len(self.tasks)}"

    @property
    def swapped(self) -> bool:
        """Whether the baseline's answer is shown first."""
        task = self.task
        if task is None or task.metric != PAIR:
            return False
        return int(digest("label side", self.seed, task.subject)[:8], 16) % 2 == 1

    @property
    def keys(self) -> str:
        """The keys that label the current answer, for display."""
        rating = self.task is not None and self.task.metric == RATING
        return "1-9 rate, 0 is 10" if rating else "a or b is better, t tie"

    def press(self, key: str, now: float) -> Label | None:
        """Handle a key; return the label to store, if it makes one.

        Args:
            now: the time in seconds; labels of a session are ordered by it.
        """
        if key == UNDO:
            return self._undo(now)
        task = self.task
        if task is None:
            return None
        if key == SKIP:
            self.index += 1
            return None
        value = (RATING_KEYS if task.metric == RATING else PAIR_KEYS).get(key)
        if value is None:
            return None
        if self.swapped:
            value = 1.0 - value
        info: dict[str, object] = {"seed": self.seed}
        if self.design:
            info["design"] = self.design
        if task.metric == PAIR:
            info["swapped"] = self.swapped
        label = task.label(value, self.labeller, self._after(now))
        label = replace(label, blind=True, info=info)
        self.given.append(label)
        self.index += 1
        return label

    def _undo(self, now: float) -> Label | None:
        """Go back; if the answer was labelled in this session, withdraw that label."""
        if self.index == 0:
            return None
        self.index -= 1
        task = self.tasks[self.index]
        if not self.given or self.given[-1].subject != task.subject:
            return None
        return replace(self.given.pop(), value=None, created=self._after(now))

    def _after(self, now: float) -> float:
        """Return a time after that of every label of the session: clocks may stand still."""
        self.last = max(now, self.last + 1e-3)
        return self.last

    def texts(self) -> list[tuple[str, str]]:
        """Return (heading, text) of what to read: prompt, earlier turns, answer or both answers."""
        task = self.task
        if task is None:
            return []
        parts = [(f"Answer to turn {answer.turn}", answer.text) for answer in task.earlier]
        if task.metric == RATING:
            return [*parts, ("Answer", task.answer.text)]
        sides = [task.answer.text, task.other_text]
        first, second = reversed(sides) if self.swapped else sides
        return [*parts, ("Answer a", first), ("Answer b", second)]


def prompt_of(task: LabelTask, texts: BenchTexts) -> tuple[str, ...]:
    """Return the prompt's texts up to the turn that is labelled."""
    item = task.answer.item
    return tuple(texts.prompts.get(item, ()))[: texts.systems.get(item, 0) + task.answer.turn]
