"""How the app exits on an unusable store or an internal error."""

from __future__ import annotations

import asyncio
import errno
import sqlite3

import pytest

from kdharness.harness.errors import RunError, StoreError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.app import HarnessApp


def write_newer_migration(paths: Paths) -> None:
    Store(paths.store).close()
    connection = sqlite3.connect(paths.store)
    connection.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
        "VALUES ('kdharness', 'm999_later', '2030')"
    )
    connection.commit()
    connection.close()


async def test_store_of_a_newer_version_exits_with_a_message(paths: Paths) -> None:
    write_newer_migration(paths)
    app = HarnessApp(paths)
    async with app.run_test(size=(80, 24)):
        for _ in range(500):
            if app.trouble is not None:
                break
            await asyncio.sleep(0.02)
    assert isinstance(app.trouble, StoreError) and app.return_code == 1
    assert "m999_later" in str(app.trouble) and "upgrade" in str(app.trouble)


@pytest.mark.slow
async def test_store_corrupted_while_running_exits_with_a_message(paths: Paths) -> None:
    Store(paths.store).close()
    app = HarnessApp(paths)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause(0.5)
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorname = "SQLITE_CORRUPT"
        app._handle_exception(error)
        await pilot.pause()
    assert isinstance(app.trouble, StoreError) and "salvage" in str(app.trouble)


@pytest.mark.slow
async def test_full_disk_error_names_the_home(paths: Paths) -> None:
    Store(paths.store).close()
    app = HarnessApp(paths)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause(0.5)
        app._handle_exception(OSError(errno.ENOSPC, "No space left on device"))
        await pilot.pause()
    assert isinstance(app.trouble, RunError) and app.trouble.where == str(paths.home)


async def test_crash_output_redacts_keys(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "planted-key-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="planted"):
        await crash(HarnessApp(paths), key)
    shown = capsys.readouterr().err
    assert "ValueError: no luck with ***" in shown and key not in shown


async def crash(app: HarnessApp, key: str) -> None:
    """Raise an internal error whose message and variables contain a key."""
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause(0.2)
        try:
            raise ValueError(f"no luck with {key}")
        except ValueError as error:
            app._handle_exception(error)
        await pilot.pause()
