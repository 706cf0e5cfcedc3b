"""The store's schema, as append-only migrations. A released migration is never edited."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kdharness.harness.store.places import relocate
from kdharness.harness.store.sqlite import Database, Migrations

migrations = Migrations("kdharness")


def unknown_steps(applied: Iterable[str]) -> list[str]:
    """Return the applied steps that only a newer version knows."""
    known = {migration.name for migration in migrations._migrations}
    return [name for name in applied if name not in known]


@migrations()
def m001_initial(db: Database) -> None:
    """Create runs with events and curves, checkpoints, answers, judgments and judge cards."""
    db.execute("""
        CREATE TABLE runs (
            id TEXT PRIMARY KEY, method TEXT NOT NULL, status TEXT NOT NULL,
            config TEXT NOT NULL, config_hash TEXT NOT NULL, folder TEXT NOT NULL,
            created REAL NOT NULL, started REAL, finished REAL, heartbeat REAL,
            pid INTEGER, pid_started REAL, host TEXT NOT NULL DEFAULT '',
            step INTEGER NOT NULL DEFAULT 0, max_steps INTEGER NOT NULL DEFAULT 0,
            loss REAL, checkpoint TEXT, error TEXT NOT NULL DEFAULT '',
            info TEXT NOT NULL DEFAULT '{}')""")
    db.execute("""
        CREATE TABLE checkpoints (
            id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, method TEXT NOT NULL,
            path TEXT NOT NULL, created REAL NOT NULL, run TEXT REFERENCES runs(id),
            step INTEGER NOT NULL DEFAULT 0, parents TEXT NOT NULL DEFAULT '{}',
            config_hash TEXT NOT NULL DEFAULT '', info TEXT NOT NULL DEFAULT '{}')""")
    db.execute("CREATE INDEX checkpoints_run ON checkpoints(run)")
    db.execute("""
        CREATE TABLE events (
            id INTEGER PRIMARY KEY, run TEXT NOT NULL, time REAL NOT NULL,
            kind TEXT NOT NULL, message TEXT NOT NULL DEFAULT '',
            info TEXT NOT NULL DEFAULT '{}')""")
    db.execute("CREATE INDEX events_run ON events(run, id)")
    db.execute("""
        CREATE TABLE points (
            run TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL,
            value REAL, time REAL NOT NULL,
            PRIMARY KEY (run, name, step)) WITHOUT ROWID""")
    db.execute("""
        CREATE TABLE controls (
            id INTEGER PRIMARY KEY, run TEXT NOT NULL, request TEXT NOT NULL,
            time REAL NOT NULL, taken REAL)""")
    db.execute("CREATE INDEX controls_waiting ON controls(run) WHERE taken IS NULL")
    db.execute("""
        CREATE TABLE answers (
            id TEXT PRIMARY KEY, checkpoint TEXT NOT NULL, bench TEXT NOT NULL,
            revision TEXT NOT NULL, item TEXT NOT NULL, turn INTEGER NOT NULL,
            text TEXT NOT NULL, finish TEXT NOT NULL, prompt_hash TEXT NOT NULL,
            settings TEXT NOT NULL, created REAL NOT NULL,
            prompt_tokens INTEGER NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0,
            seconds REAL NOT NULL DEFAULT 0, info TEXT NOT NULL DEFAULT '{}')""")
    db.execute("CREATE INDEX answers_of ON answers(checkpoint, bench)")
    db.execute("""
        CREATE TABLE judgments (
            id TEXT PRIMARY KEY, checkpoint TEXT NOT NULL, bench TEXT NOT NULL,
            revision TEXT NOT NULL, item TEXT NOT NULL, turn INTEGER NOT NULL,
            category TEXT NOT NULL, judge TEXT NOT NULL, metric TEXT NOT NULL,
            status TEXT NOT NULL, created REAL NOT NULL, value REAL,
            weight REAL NOT NULL DEFAULT 1, answer TEXT, baseline TEXT NOT NULL DEFAULT '',
            "order" INTEGER NOT NULL DEFAULT 0, raw TEXT NOT NULL DEFAULT '',
            error TEXT NOT NULL DEFAULT '', prompt_tokens INTEGER NOT NULL DEFAULT 0,
            tokens INTEGER NOT NULL DEFAULT 0, usd REAL NOT NULL DEFAULT 0,
            info TEXT NOT NULL DEFAULT '{}')""")
    db.execute("CREATE INDEX judgments_of ON judgments(checkpoint, bench, judge)")
    db.execute("""
        CREATE TABLE cards (
            judge TEXT NOT NULL, created REAL NOT NULL, card TEXT NOT NULL,
            PRIMARY KEY (judge, created))""")
    db.execute("""
        CREATE TABLE score_cache (
            key TEXT PRIMARY KEY, state TEXT NOT NULL, scores TEXT NOT NULL)""")


@migrations()
def m002_judgment_changes(db: Database) -> None:
    """Count the writes to each group of judgments, so that stale cached scores are detected.

    Triggers update the counter: reading one row per group is far cheaper than scanning the
    judgments of every checkpoint each time a leaderboard opens.
    """
    db.execute("""
        CREATE TABLE judgment_groups (
            checkpoint TEXT NOT NULL, bench TEXT NOT NULL, revision TEXT NOT NULL,
            judge TEXT NOT NULL, changes INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (checkpoint, bench, revision, judge)) WITHOUT ROWID""")
    for event, row in (("INSERT", "new"), ("UPDATE", "new"), ("DELETE", "old")):
        db.execute(f"""
            CREATE TRIGGER judgments_{event.lower()} AFTER {event} ON judgments BEGIN
                INSERT INTO judgment_groups (checkpoint, bench, revision, judge, changes)
                VALUES ({row}.checkpoint, {row}.bench, {row}.revision, {row}.judge, 1)
                ON CONFLICT DO UPDATE SET changes = changes + 1;
            END""")


@migrations()
def m003_scoring(db: Database) -> None:
    """Index what a leaderboard reads of judgments, without the judges' raw replies.

    `bench_notes` describes a benchmark revision (flags, scorer, number of items) under an empty
    checkpoint, and contains notes on one checkpoint's answers under its id.
    """
    db.execute("""
        CREATE TABLE bench_notes (
            checkpoint TEXT NOT NULL, bench TEXT NOT NULL, revision TEXT NOT NULL,
            info TEXT NOT NULL, PRIMARY KEY (checkpoint, bench, revision)) WITHOUT ROWID""")
    db.execute("""
        CREATE INDEX judgments_scored ON judgments(
            checkpoint, bench, revision, judge, created, item, turn, category, metric, status,
            value, weight, "order", baseline, info)""")


@migrations()
def m004_scored_facts(db: Database) -> None:
    """Add the fields of `info` that scoring needs as columns of that index.

    Reading them as JSON cost more than everything else in a cold leaderboard, and a judge's
    log-probabilities are too large for an index.
    """
    db.execute("DROP INDEX judgments_scored")
    for name in ("len_1", "len_2", "published", "absent"):
        db.execute(
            f"ALTER TABLE judgments ADD COLUMN {name} REAL "
            f"GENERATED ALWAYS AS (json_extract(info, '$.{name}')) VIRTUAL"
        )
    db.execute("""
        CREATE INDEX judgments_scored ON judgments(
            checkpoint, bench, revision, judge, created, item, turn, category, metric, status,
            value, weight, "order", baseline, len_1, len_2, published, absent)""")


@migrations()
def m005_groups_of_old(db: Database) -> None:
    """Count judgments from before m002, which no leaderboard showed."""
    db.execute("""
        INSERT OR IGNORE INTO judgment_groups (checkpoint, bench, revision, judge, changes)
        SELECT checkpoint, bench, revision, judge, COUNT(*) FROM judgments
        GROUP BY checkpoint, bench, revision, judge""")


@migrations()
def m006_identities(db: Database) -> None:
    """Add columns for a checkpoint's identity: hashes of its weights and of its interface.

    Before, `id` was a hash of samples, which two different models could share. Rows keep their
    old id until their folder has been read (`models.adoption`). `file_digests` caches the digests
    of files, so that an unchanged one is not read again.
    """
    for name in ("weights", "interface"):
        db.execute(f"ALTER TABLE checkpoints ADD COLUMN {name} TEXT NOT NULL DEFAULT ''")
    db.execute("CREATE INDEX checkpoints_weights ON checkpoints(weights)")
    db.execute("""
        CREATE TABLE file_digests (
            path TEXT PRIMARY KEY, stamp TEXT NOT NULL, digests TEXT NOT NULL) WITHOUT ROWID""")


@migrations()
def m007_former_ids(db: Database) -> None:
    """Record which ids replaced which: a store with an old id may be merged later."""
    db.execute("""
        CREATE TABLE former_ids (old TEXT PRIMARY KEY, new TEXT NOT NULL) WITHOUT ROWID""")


@migrations()
def m008_more_scored_facts(db: Database) -> None:
    """Add differences in style, and reported standard errors, to the index of scoring."""
    db.execute("DROP INDEX judgments_scored")
    for name in ("headers", "lists", "bold", "stderr"):
        db.execute(
            f"ALTER TABLE judgments ADD COLUMN {name} REAL "
            f"GENERATED ALWAYS AS (json_extract(info, '$.{name}')) VIRTUAL"
        )
    db.execute("""
        CREATE INDEX judgments_scored ON judgments(
            checkpoint, bench, revision, judge, created, item, turn, category, metric, status,
            value, weight, "order", baseline, len_1, len_2, published, absent, headers, lists,
            bold, stderr)""")


@migrations()
def m009_labels(db: Database) -> None:
    """Add people's labels of answers; a newer one by the same person supersedes, none is changed.

    `text` and `other_text` are digests of the labelled texts: an answer that was generated again
    is unlabelled. A value of NULL withdraws the label. `info` has how the answer was chosen.
    """
    db.execute("""
        CREATE TABLE labels (
            id TEXT PRIMARY KEY, created REAL NOT NULL, labeller TEXT NOT NULL,
            checkpoint TEXT NOT NULL, bench TEXT NOT NULL, revision TEXT NOT NULL,
            item TEXT NOT NULL, turn INTEGER NOT NULL, metric TEXT NOT NULL,
            answer TEXT NOT NULL, text TEXT NOT NULL, baseline TEXT NOT NULL DEFAULT '',
            other TEXT NOT NULL DEFAULT '', other_text TEXT NOT NULL DEFAULT '',
            value REAL, blind INTEGER NOT NULL DEFAULT 0, note TEXT NOT NULL DEFAULT '',
            info TEXT NOT NULL DEFAULT '{}')""")
    db.execute("CREATE INDEX labels_of ON labels(checkpoint, bench)")


@migrations()
def m010_label_designs(db: Database) -> None:
    """Record the strata by which items to label were chosen; labels name them in `info.design`.

    `strata` maps each item of a benchmark to its stratum.
    """
    db.execute("""
        CREATE TABLE label_designs (
            id TEXT PRIMARY KEY, bench TEXT NOT NULL, created REAL NOT NULL,
            strata TEXT NOT NULL)""")


@migrations()
def m011_paths_in_the_home(db: Database) -> None:
    """Store paths inside the home relative to it, and where the home has been.

    A copied home led to the weights of the original. `homes` has every place of the home:
    configs and adapters contain paths of earlier ones.
    """
    db.execute("CREATE TABLE homes (path TEXT PRIMARY KEY)")
    file = next(row[2] for row in db.execute("PRAGMA database_list") if row[1] == "main")
    if file:
        relocate(db.conn, Path(file).parent)


@migrations()
def m012_annotations(db: Database) -> None:
    """Add people's tags (a JSON list) and notes on runs and checkpoints."""
    db.execute("""
        CREATE TABLE annotations (
            kind TEXT NOT NULL, id TEXT NOT NULL, tags TEXT NOT NULL DEFAULT '[]',
            note TEXT NOT NULL DEFAULT '', PRIMARY KEY (kind, id))""")
