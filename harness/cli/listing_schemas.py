"""JSON Schemas of what commands print with `--format json`, described on docs/outputs.md.

Keys are written as `name:type`; a `?` after the type allows null, one after the name says that the
key is not always there. Programs must expect further keys: new ones may be added.
"""

from __future__ import annotations

from collections.abc import Mapping

from kdharness.harness.config.schema import DIALECT
from kdharness.harness.errors import ConfigError, did_you_mean

Schema = dict[str, object]

_TYPES: dict[str, Schema] = {
    "text": {"type": "string"},
    "int": {"type": "integer"},
    "num": {"type": "number"},
    "bool": {"type": "boolean"},
    "texts": {"type": "array", "items": {"type": "string"}},
    "nums": {"type": "array", "items": {"type": "number"}},
    "object": {"type": "object"},
    "any": {},
}


def record(keys: str, **parts: Schema) -> Schema:
    """Return the schema of an object.

    Args:
        keys: `name:type` of each, separated by blanks; text is the default type.
        parts: schemas of types that are named in `keys` besides the plain ones.
    """
    properties: Schema = {}
    required = []
    for key in keys.split():
        name, _, kind = key.partition(":")
        if not name.endswith("?"):
            required.append(name)
        known = {**_TYPES, **parts}[kind.removesuffix("?") or "text"]
        null: Schema = {"type": "null"}
        properties[name.removesuffix("?")] = (
            {"anyOf": [known, null]} if kind.endswith("?") else known
        )
    return {"type": "object", "properties": properties, "required": required}


def rows(item: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": item}


def one_of(*words: str) -> Schema:
    """Return the schema of one of some words."""
    return {"enum": list(words)}


def each(value: Schema) -> Schema:
    """Return the schema of an object with keys of any name."""
    return {"type": "object", "additionalProperties": value}


def or_null(schema: Schema) -> Schema:
    """Return a schema that allows null too."""
    return {"anyOf": [schema, {"type": "null"}]}


_RUN = "run method status step:int max_steps:int loss:num? started checkpoint:text?"
_INTERVAL = record("value:num ci_low:num? ci_high:num? n:int")
_STATUS = one_of("ok", "note", "broken")
_TRADEOFF_POINT = record(
    "checkpoint method general:num domain:num gain:num? retention:num? on_front:bool"
)
_STATISTICS = record(
    "points:points hypervolume:interval? curve:texts recipes:recipes pick:pick? keep:num? "
    "notes:texts",
    interval=_INTERVAL,
    points=each(
        record(
            "gain:interval? retention:interval? above_curve:interval?",
            interval=_INTERVAL,
        )
    ),
    recipes=rows(
        record(
            "recipe checkpoints:texts figure mean:num? questions:any seeds:any",
        )
    ),
    pick=record("checkpoint min_retention:num sure:bool rivals:texts"),
)

LISTINGS: dict[str, Schema] = {
    "runs": rows(record(f"{_RUN} tags?:texts note?")),
    "queue": rows(record("run method state models")),
    "show": record(
        f"{_RUN} error folder config_hash last:numbers info:object lineage:texts config:object "
        "tags?:texts note?",
        numbers=each(or_null({"type": "number"})),
    ),
    "leaderboard": rows(
        record(
            "checkpoint run:text? method bench metric value:num? ci_low:num? ci_high:num? n:int "
            "n_failed:int judge flags:texts"
        )
    ),
    "compare": rows(
        record(
            "bench metric judge base base_value:num other other_value:num difference:num "
            "ci_low:num? ci_high:num? p:num? p_holm:num? n:int n_needed:num? verdict:verdict "
            "revision",
            verdict=one_of("better", "worse", "not told apart"),
        )
    ),
    "compare settings": rows(record("field checkpoint value:any")),
    "compare flips": rows(
        record(
            "bench revision judge base other n:int wrong_to_right:int right_to_wrong:int "
            "items:items",
            items=rows(
                record("item category metric base_value:num other_value:num flip:any"),
            ),
        )
    ),
    "compare cost": rows(
        record(
            "checkpoint tokens:int? flops:num? flops_total:num? flops_known:num trainings:int "
            "seconds:num? judge_calls:int judge_usd:num"
        )
    ),
    "tradeoff": record(
        "axes:axes points:points hypervolume:num? reference:text? expert:text? floor:any "
        "statistics:statistics series?:series",
        axes=record("general domain"),
        points=rows(_TRADEOFF_POINT),
        statistics=_STATISTICS,
        series=rows(record("name kind field checkpoints:texts values:any")),
    ),
    "replicate": rows(
        record(
            "claim verdict:verdict effect:num? ci_low:num? ci_high:num? threshold:num? seeds:int "
            "questions:int settings:object figure per_seed:nums note p_holm:num? adjusted:verdict "
            "equal:equal",
            verdict=one_of("holds", "does not hold", "can't tell"),
            equal=each({"type": "number"}),
        )
    ),
    "replicate --list": rows(
        record(
            "part edition:int question claims:texts runs:int done:int shared:texts minutes:num? "
            "minutes_done:num gigabytes:num? note"
        )
    ),
    "replicate --dry-run": rows(record("run step status")),
    "forgetting": rows(
        record(
            "part checkpoint bench metric judge reference:num? value:num difference:num? "
            "ci_low:num? ci_high:num? p_holm:num? n:int change:change",
            change=one_of("better", "worse", "changed", "not told apart", ""),
        )
    ),
    "forgetting prediction": rows(
        record("part bench metric n:int slope:num? ci_low:num? ci_high:num? r:num? spearman:num?")
    ),
    "check": rows(
        record(
            "check of status:status detail advice values:object",
            status=one_of("ok", "note", "stop"),
        )
    ),
    "label next": rows(
        record("checkpoint bench item turn:int metric baseline answer seed:int design:any")
    ),
    "label agreement": rows(
        record("bench metric first second figure value:num? low:num? high:num? n:int")
    ),
    "label list": rows(
        record(
            "labeller checkpoint bench item turn:int metric baseline value:num? blind:bool "
            "counts:bool when note"
        )
    ),
    "selfcheck": record(
        "ok:bool cases:cases",
        cases=rows(
            record(
                "method loss_rel_error:num grad_rel_error:num flops_over_floor:num? "
                "peak_bytes_over_plain:num? tokens_per_second:num note"
            )
        ),
    ),
    "plan": rows(record("figure value:any unit")),
    "eval --dry-run": rows(
        record("checkpoint bench judge answers:int calls:int tokens:int usd:num?")
    ),
    "sweep": rows(record("run step status seconds:num? note")),
    "rollouts": rows(
        record(
            "step:int row:int where kind prompt_tokens:int tokens:int ended:bool distinct:num? "
            "score:num text"
        )
    ),
    "judge list": rows(record("judge default:bool card tells:num? checked:text?")),
    "judge check": rows(record("check key share:num? low:num? high:num? n:int")),
    "judge card": rows(record("check key value:num? share?:num? low:num? high:num? n:int")),
    "data list": rows(
        record("name kind status licence megabytes:num files:int title source"),
    ),
    "store check": rows(record("check status:status detail", status=_STATUS)),
    "store prune": rows(record("what path mib:num")),
    "store rehash": rows(record("checkpoint result")),
    "doctor": rows(record("check status:status detail advice", status=_STATUS)),
}
"""Command, and what it shows where it shows several things -> the schema of its JSON."""
SAME = {
    "eval": "leaderboard",
    "import fastchat": "leaderboard",
    "import alpaca-eval": "leaderboard",
    "import lm-eval": "leaderboard",
    "data check": "data list",
    "compare differences": "compare",
    "sweep --dry-run": "sweep",
}
"""Commands that print the listing of another."""


def listing_schema(name: str) -> Schema:
    """Return the JSON Schema of a command's JSON, by the words after `kdharness`.

    Raises:
        ConfigError: no such listing.
    """
    known = {**LISTINGS, **{alias: LISTINGS[other] for alias, other in SAME.items()}}
    plain = " ".join(name.split())
    if plain not in known:
        raise ConfigError(
            f"no listing {name[:60]!r}{did_you_mean(plain, known)}",
            hint=f"available: {', '.join(known)}",
        )
    return {"$schema": DIALECT, "title": f"kdharness {plain} --format json", **known[plain]}


def all_schemas() -> Mapping[str, object]:
    """Return one document with the schema of every listing under `$defs`."""
    titled = {name: {"title": f"kdharness {name}", **part} for name, part in LISTINGS.items()}
    same = {name: {"$ref": f"#/$defs/{other}"} for name, other in SAME.items()}
    return {"$schema": DIALECT, "title": "Listings of kdharness", "$defs": {**titled, **same}}
