"""Chats as token rows with labels.

A `Dataset` holds encoded rows and, for each source, a report of what was kept, truncated, dropped
and ignored, with warnings about what a model cannot learn from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdharness.harness.chat.template import CHATML, encode_chat, render
from kdharness.harness.config.data import DataSpec, SourceSpec
from kdharness.harness.config.training import AnyConfig, runs_code_of
from kdharness.harness.errors import ConfigError, DataError
from kdharness.harness.models.loading import load_tokenizer
from kdharness.harness.paths import Paths
from kdharness.harness.types import IGNORE_INDEX, digest
from kdharness.harness.util.filesystem import local_path
from kdharness.harness.util.untrusted import CONFIG_BYTES, read_text
from kdharness.trainers.data.control_tokens import first_control, without_own_ends
from kdharness.trainers.data.reports import Report, Template
from kdharness.trainers.data.sources import Chat, read_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TrainRow:
    """One training row: ids and unshifted labels, its kind (teacher), and where it came from."""

    input_ids: list[int]
    labels: list[int]
    kind: str
    source: int
    where: str

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def labelled(self) -> int:
        """The number of positions with a loss."""
        return sum(label != IGNORE_INDEX for label in self.labels[1:])

    @property
    def label_places(self) -> list[int]:
        """The number of tokens each labelled position sees, itself included."""
        return [seen for seen, label in enumerate(self.labels[1:], 1) if label != IGNORE_INDEX]


@dataclass
class Dataset:
    """Encoded rows with their report; `fingerprint` is the identity of the rows."""

    rows: list[TrainRow]
    reports: list[Report] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return {"index": index, "input_ids": row.input_ids, "labels": row.labels, "kind": row.kind}

    @property
    def fingerprint(self) -> str:
        """A hash of every token, label and kind."""
        return digest([[row.input_ids, row.labels, row.kind] for row in self.rows])


def set_chat_template(
    tokenizer: PreTrainedTokenizerBase, spec: DataSpec, fallback: Any = None
) -> None:
    """Set the tokenizer's template: the config's, else its own, else the teacher's.

    Raises:
        DataError: none of them has one.
    """
    if spec.chat_template == "chatml":
        tokenizer.chat_template = CHATML
    elif spec.chat_template:
        try:
            tokenizer.chat_template = read_text(
                local_path(spec.chat_template), "the chat template", limit=CONFIG_BYTES
            )
        except ConfigError as error:
            raise ConfigError(
                error.message,
                where="data.chat_template",
                hint=error.hint or "use a file with a Jinja template, or chatml",
            ) from error
    elif not tokenizer.chat_template and fallback is not None and fallback.chat_template:
        tokenizer.chat_template = fallback.chat_template
    if not tokenizer.chat_template:
        raise DataError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template",
            where="data.chat_template",
            hint="set data.chat_template to a template file, or to chatml",
        )


def encode_sources(
    sources: Sequence[SourceSpec],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    former: bool = False,
) -> Dataset:
    """Read and encode every source.

    Args:
        sources: where the rows are.
        tokenizer: with its chat template.
        max_length: of a row in tokens.
        former: encode as older versions did, for a run that began with one: a prompt's assistant
            turns are learnt, and an answer's own end of turn is not removed.

    Raises:
        DataError: a source in which no row has a labelled token, as happens when rows don't go
            through the chat template.
    """
    data = Dataset([])
    if not sources:
        return data
    template = Template.of(tokenizer)
    for number, source in enumerate(sources):
        report = Report(source.path, source.kind)
        for chat in read_source(source, former=former):
            if not former:
                _remove_ends(chat, template, report)
            _encode(chat, tokenizer, max_length, source, number, data, report, template)
        if not report.rows:
            raise DataError(
                f"no row has a labelled token ({report.losses()})",
                where=source.path,
                hint="rows need a non-empty assistant turn that is not excluded from training and "
                f"fits within data.max_length ({max_length} tokens)",
            )
        report.warnings = template.warnings(report)
        data.reports.append(report)
    return data


def _remove_ends(chat: Chat, template: Template, report: Report) -> None:
    try:
        chat["messages"], ended = without_own_ends(chat["messages"], template.traits.end_token)
    except DataError as error:
        raise DataError(error.message, where=chat["where"], hint=error.hint) from error
    report.ended += ended


def _encode(
    chat: Chat,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    source: SourceSpec,
    number: int,
    data: Dataset,
    report: Report,
    template: Template,
) -> None:
    try:
        encoded = encode_chat(
            tokenizer,
            chat["messages"],
            max_length=max_length,
            truncated=chat["truncated"],
            tools=chat["tools"],
            variables=chat["variables"],
        )
    except DataError as error:
        raise DataError(error.message, where=chat["where"], hint=error.hint) from error
    report.unread.update(chat["unread"])
    report.unread_turns.update(chat["unread_turns"])
    report.empty += encoded.empty
    if not encoded.labelled:
        report.dropped += 1
        report.lost += encoded.cut and not encoded.empty
        return
    kind = str(chat["expert"] or source.kind)
    row = TrainRow(encoded.input_ids, encoded.labels, kind, number, chat["where"])
    data.rows.append(row)
    report.rows += 1
    report.cut += encoded.cut
    report.tokens += len(row)
    report.labelled += encoded.labelled
    report.longest = max(report.longest, len(row))
    if found := first_control(chat["messages"], template.control):
        report.forged += 1
        report.first_forged = report.first_forged or f"{found!r} at {chat['where']}"
    report.unbegun += template.beginning not in (None, row.input_ids[0])
    report.unshown += encoded.unshown
    report.straddling += encoded.straddles
    report.endless += encoded.ends and encoded.last_label not in template.ends


def load_chats(
    spec: DataSpec, tokenizer: PreTrainedTokenizerBase, *, former: bool = False
) -> tuple[Dataset, Dataset]:
    """Load the training and the held-out rows of a config; for `former` see `encode_sources`.

    Raises:
        DataError: unreadable data, or held-out rows that are also in the training data.
    """
    train = encode_sources(spec.train, tokenizer, spec.max_length, former=former)
    heldout = encode_sources(spec.heldout, tokenizer, spec.max_length, former=former)
    if not spec.allow_duplicates:
        refuse_duplicates(train, heldout)
    return train, heldout


def refuse_duplicates(train: Dataset, heldout: Dataset) -> None:
    """Raise DataError when a held-out row, token for token, is also trained on."""
    if not heldout.rows:
        return
    # The held-out rows are the few.
    held = {tuple(row.input_ids) for row in heldout.rows}
    seen: dict[tuple[int, ...], str] = {}
    for row in train.rows:
        if (ids := tuple(row.input_ids)) in held:
            seen.setdefault(ids, row.where)
    shared = [
        (row.where, seen[tuple(row.input_ids)])
        for row in heldout.rows
        if tuple(row.input_ids) in seen
    ]
    if shared:
        count = "1 held-out row is" if len(shared) == 1 else f"{len(shared)} held-out rows are"
        raise DataError(
            f"{count} also in the training data; the first one is at {shared[0][1]}",
            where=shared[0][0],
            hint="remove them from one side, or set data.allow_duplicates: true",
        )


def tokenizer_source(config: AnyConfig) -> str:
    """Return the model whose tokenizer a config's student uses."""
    student: Any = getattr(config, "student", None)
    if student.model:
        return str(student.model)
    teacher = _main_teacher(config)
    if student.source == "teacher" and teacher is not None:
        return str(teacher.model)
    return str(student.source or student.experts_from[0])


def tokenizer_of(config: AnyConfig, source: str, paths: Paths) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model that a config names, with its own code where that may run."""
    return load_tokenizer(source, paths, trust_remote_code=runs_code_of(config, source))


def config_tokenizer(config: AnyConfig, data: DataSpec, paths: Paths) -> PreTrainedTokenizerBase:
    """Load the student's tokenizer with the chat template that its rows are encoded with."""
    source = tokenizer_source(config)
    tokenizer = tokenizer_of(config, source, paths)
    model = getattr(_main_teacher(config), "model", None)
    wanted = model and not tokenizer.chat_template
    set_chat_template(tokenizer, data, tokenizer_of(config, str(model), paths) if wanted else None)
    return tokenizer


def _main_teacher(config: AnyConfig) -> Any:
    """Return the teacher a student can be cut from; a plugin's config has it as `teacher`."""
    return getattr(config, "main_teacher", getattr(config, "teacher", None))


def marked(row: TrainRow, tokenizer: Any) -> str:
    """Return a row's text with its labelled runs between ⟦ and ⟧."""
    run: list[int] = []
    text, inside = "", False
    for token, label in zip([*row.input_ids, None], [*row.labels, IGNORE_INDEX], strict=True):
        labelled = label != IGNORE_INDEX
        if run and (labelled != inside or token is None):
            piece = tokenizer.decode(run)
            text += f"⟦{piece}⟧" if inside else piece
            run = []
        inside = labelled
        if token is not None:
            run.append(token)
    return text


__all__ = [
    "Dataset",
    "Report",
    "TrainRow",
    "config_tokenizer",
    "encode_sources",
    "load_chats",
    "marked",
    "refuse_duplicates",
    "render",
    "set_chat_template",
    "tokenizer_source",
]
