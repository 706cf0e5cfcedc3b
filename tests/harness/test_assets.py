"""Assets from hub, wheel or folder, in that order, verified and atomic; with a loopback hub."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness import assets
from kdharness.harness.assets import Asset, AssetFile
from kdharness.harness.errors import AssetError, ConfigError
from kdharness.harness.paths import Paths
from support.wheels import pip_brings, wheel_of

CONTENT = {"a.jsonl": b'{"q": 1}\n', "sub/b.txt": b"text"}


def make_asset(**changes: Any) -> Asset:
    files = {
        name: AssetFile(hashlib.sha256(data).hexdigest(), len(data), f"pkg/{name}", f"data/{name}")
        for name, data in CONTENT.items()
    }
    values: dict[str, Any] = {
        "name": "thing",
        "title": "A thing",
        "kind": "benchmark",
        "licence": "CC-BY-NC-4.0",
        "notice": "Not for sale.",
        "files": files,
        "wheel": "thing==1.0",
        "hub": {"repo": "org/thing", "type": "dataset", "revision": "main"},
    }
    return Asset(**{**values, **changes})


@pytest.fixture
def use_asset(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that replaces the manifest by a single asset."""

    def use(asset: Asset) -> Asset:
        monkeypatch.setattr(assets, "manifest", lambda: {asset.name: asset})
        return asset

    return use


def serve_files(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> http.server.HTTPServer:
    """Run a loopback hub that answers `resolve` requests like the real one."""

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            name = self.path.split("/resolve/main/")[-1]
            data = files.get(name)
            self.send_response(404 if data is None else 200)
            if data is None:
                self.send_header("X-Error-Code", "EntryNotFound")
                data = b"gone"
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    return server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    files = {f"data/{name}": data for name, data in CONTENT.items()}
    server = serve_files(monkeypatch, files)
    yield files
    server.shutdown()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found")

    monkeypatch.setattr(subprocess, "run", refuse)


def no_assets_left(paths: Paths) -> bool:
    return not paths.assets.exists() or not any(paths.assets.iterdir())


def test_hub_is_tried_first(use_asset: Any, hub: dict[str, bytes], paths: Paths) -> None:
    asset = use_asset(make_asset())
    messages: list[str] = []
    folder = assets.pull(paths, "thing", say=messages.append)
    assert (folder / "sub/b.txt").read_bytes() == b"text"
    assert assets.status(paths, asset, verify=True) == "pulled"
    assert messages == ["thing: pulled from hub org/thing, licence CC-BY-NC-4.0. Not for sale."]
    assert assets.asset_file(paths, "thing", "a.jsonl") == folder / "a.jsonl"


def test_hash_mismatch_on_the_hub_falls_back_to_the_wheel(
    use_asset: Any, hub: dict[str, bytes], paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_asset(make_asset())
    hub["data/a.jsonl"] = b'{"q": 2}\n'
    pip_brings(monkeypatch, wheel_of({f"pkg/{name}": data for name, data in CONTENT.items()}))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    messages: list[str] = []
    assets.pull(paths, "thing", say=messages.append)
    assert "hub org/thing failed (a.jsonl has sha256" in messages[0]
    assert "from PyPI thing==1.0" in messages[1]


def test_file_missing_from_the_hub_is_reported(
    use_asset: Any, hub: dict[str, bytes], paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_asset(make_asset(wheel=""))
    del hub["data/a.jsonl"]
    with pytest.raises(AssetError, match=r"a\.jsonl"):
        assets.pull(paths, "thing")
    assert no_assets_left(paths)


def test_missing_wheel_member_is_reported_and_leaves_no_files(
    use_asset: Any, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_asset(make_asset())
    pip_brings(monkeypatch, wheel_of({"pkg/a.jsonl": CONTENT["a.jsonl"]}))
    with pytest.raises(AssetError, match=r"the wheel has no member pkg/sub/b\.txt"):
        assets.pull(paths, "thing")
    assert no_assets_left(paths)


def test_wrong_hash_is_reported_and_existing_files_are_kept(
    use_asset: Any, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_asset(make_asset())
    existing = paths.assets / "thing" / "mine.txt"
    existing.parent.mkdir(parents=True)
    existing.write_text("stays", "utf-8")
    pip_brings(
        monkeypatch, wheel_of({"pkg/a.jsonl": b"evil", "pkg/sub/b.txt": CONTENT["sub/b.txt"]})
    )
    with pytest.raises(AssetError, match=r"expected .*: a different version"):
        assets.pull(paths, "thing")
    assert existing.read_text("utf-8") == "stays"


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("switch", "said"),
    [("1", "the hub is switched off (HF_HUB_OFFLINE)"), ("0", "the hub is unreachable")],
)
def test_offline_error_names_every_source_and_the_from_option(
    use_asset: Any, paths: Paths, monkeypatch: pytest.MonkeyPatch, switch: str, said: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", switch)
    use_asset(make_asset())
    with pytest.raises(AssetError) as caught:
        assets.pull(paths, "thing")
    text = str(caught.value)
    assert said in text
    assert "No matching distribution found" in text
    assert "kdharness data pull thing --from FOLDER" in text
    assert no_assets_left(paths)


@pytest.mark.usefixtures("no_network")
def test_pull_from_a_local_folder(use_asset: Any, paths: Paths, tmp_path: Path) -> None:
    asset = use_asset(make_asset())
    local = tmp_path / "mine"
    local.mkdir()
    (local / "a.jsonl").write_bytes(CONTENT["a.jsonl"])
    with pytest.raises(AssetError, match=r"sub/b\.txt is missing"):
        assets.pull(paths, "thing", folder=local)
    (local / "b.txt").write_bytes(CONTENT["sub/b.txt"])
    assets.pull(paths, "thing", folder=local)
    assert assets.status(paths, asset) == "pulled"
    (paths.assets / "thing" / "a.jsonl").write_bytes(b'{"q": 9}\n')
    assert assets.status(paths, asset) == "pulled"
    assert assets.status(paths, asset, verify=True) == "damaged"


def test_shipped_manifest_is_complete() -> None:
    manifest = assets.manifest()
    assert {"mt-bench", "alpaca-eval", "smollm2-135m-instruct"} <= set(manifest)
    for asset in manifest.values():
        assert asset.licence
        assert asset.wheel or asset.hub
        for name, file in asset.files.items():
            assert len(file.sha256) == 64 and file.bytes > 0, name
            assert ".." not in name and not name.startswith("/")
    with pytest.raises(ConfigError, match="known: mt-bench"):
        assets.find_asset("nonsense")
