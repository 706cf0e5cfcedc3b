"""Model identity: every byte of every tensor, independent of location and sharding."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from kdharness.harness.errors import AssetError, ModelError
from kdharness.harness.models import identity
from kdharness.harness.models.identity import ModelIdentity, identify
from kdharness.harness.models.resolve import identity_of
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.timing import without_hanging


@pytest.fixture
def no_racy_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat files as settled even if they were written just now."""
    monkeypatch.setattr(identity, "RACY_SECONDS", -1.0)


def rewrite_tensors(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**values, **changes}), "utf-8")


def test_identity_ignores_location_and_save_metadata(
    model_folder: Path, tiny_teacher: Path
) -> None:
    edit(model_folder / "config.json", _name_or_path="elsewhere", transformers_version="9.9")
    (model_folder / "README.md").write_text("a card", "utf-8")
    assert identify(model_folder) == identify(tiny_teacher)


def test_tensor_hashes_match_a_direct_computation(model_folder: Path) -> None:
    import blake3

    rows = identity.hash_tensors(model_folder / "model.safetensors")
    for name, tensor in load_file(model_folder / "model.safetensors").items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        expected = (name, "F32", list(tensor.shape), blake3.blake3(raw).hexdigest(length=16))
        assert expected in rows
    assert len(rows) == len(load_file(model_folder / "model.safetensors"))


def test_identity_depends_on_every_tensor(model_folder: Path) -> None:
    """A sampled fingerprint would miss the exchange of whole layers."""
    identities = {identify(model_folder).weights}
    names = list(load_file(model_folder / "model.safetensors"))
    for name in names:

        def change(tensors: dict[str, Any], name: str = name) -> None:
            flat = tensors[name].view(-1)
            flat[len(flat) // 2] += 0.25

        rewrite_tensors(model_folder, change)
        identities.add(identify(model_folder).weights)
    assert len(identities) == len(names) + 1


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_identity_depends_on_every_bit(model_folder: Path, offset: int, bit: int) -> None:
    path = model_folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    before = identify(model_folder).weights
    index = start + offset % (len(raw) - start)
    raw[index] ^= 1 << bit
    path.write_bytes(raw)
    assert identify(model_folder).weights != before


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({"extra": torch.zeros(2)}),
        lambda t: t.pop("model.norm.weight"),
        lambda t: t.update({"model.norm.weight": t["model.norm.weight"].double()}),
        lambda t: t.update({"model.norm.weight": t["model.norm.weight"][None]}),
        lambda t: t.update({"model.final.weight": t.pop("model.norm.weight")}),
    ],
    ids=["more", "fewer", "dtype", "shape", "name"],
)
def test_identity_depends_on_names_dtypes_and_shapes(model_folder: Path, change: Any) -> None:
    before = identify(model_folder).weights
    rewrite_tensors(model_folder, change)
    assert identify(model_folder).weights != before


def test_identity_ignores_sharding(model_folder: Path) -> None:
    before = identify(model_folder)
    tensors = load_file(model_folder / "model.safetensors")
    names = sorted(tensors, reverse=True)
    shards = [names[:5], names[5:6], names[6:]]
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-00003.safetensors"
        save_file({name: tensors[name] for name in shard}, model_folder / file)
        index |= dict.fromkeys(shard, file)
    (model_folder / "model.safetensors").unlink()
    table = {"metadata": {"total_size": 1}, "weight_map": index}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(table), "utf-8")
    assert identify(model_folder) == before


def test_identity_ignores_a_consolidated_copy(model_folder: Path) -> None:
    before = identify(model_folder)
    shutil.copy(model_folder / "model.safetensors", model_folder / "consolidated.safetensors")
    assert identify(model_folder) == before


def test_identity_depends_on_bundled_code(model_folder: Path) -> None:
    before = identify(model_folder)
    (model_folder / "modeling_own.py").write_text("SCALE = 2\n", "utf-8")
    assert identify(model_folder).weights != before.weights


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("chat_template.jinja", "{{ messages }}"),
        ("generation_config.json", '{"eos_token_id": [7]}'),
        ("special_tokens_map.json", '{"eos_token": "x"}'),
        ("tokenizer.model", "pieces"),
        ("additional_chat_templates/tools.jinja", "{{ tools }}"),
    ],
)
def test_interface_has_a_separate_identity(model_folder: Path, file: str, text: str) -> None:
    before = identify(model_folder)
    (model_folder / file).parent.mkdir(exist_ok=True)
    (model_folder / file).write_text(text, "utf-8")
    after = identify(model_folder)
    assert after.weights == before.weights
    assert after.interface != before.interface
    assert after.id != before.id


def test_interface_includes_a_template_in_the_tokenizer_config(model_folder: Path) -> None:
    (model_folder / "tokenizer_config.json").write_text('{"chat_template": "a"}', "utf-8")
    before = identify(model_folder)
    edit(model_folder / "tokenizer_config.json", name_or_path="elsewhere")
    assert identify(model_folder) == before
    edit(model_folder / "tokenizer_config.json", chat_template="b")
    assert identify(model_folder).interface != before.interface


def write_adapter(folder: Path, base: str, value: float = 1.0) -> Path:
    folder.mkdir(parents=True)
    save_file(
        {"base_model.model.x.lora_A.weight": torch.full((2, 2), value)},
        folder / "adapter_model.safetensors",
    )
    config = {"base_model_name_or_path": base, "peft_type": "LORA", "r": 2}
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def test_adapter_identity_includes_its_base(
    model_folder: Path, tmp_path: Path, paths: Paths
) -> None:
    adapter = write_adapter(tmp_path / "one", str(model_folder))
    with Store(paths.store) as store:

        def identity_at(path: Path) -> ModelIdentity:
            return identity_of(str(path), paths, store)

        before = identity_at(adapter)
        moved = Path(shutil.copytree(model_folder, tmp_path / "elsewhere"))
        assert identity_at(write_adapter(tmp_path / "two", str(moved))) == before
        assert (
            identity_at(write_adapter(tmp_path / "three", str(model_folder), 2.0)).weights
            != before.weights
        )
        assert (
            identity_at(write_adapter(tmp_path / "chain", str(adapter))).weights != before.weights
        )
        rewrite_tensors(model_folder, lambda t: t["model.norm.weight"].add_(1))
        assert identity_at(adapter).weights != before.weights
        with pytest.raises(ModelError, match=r"adapter_config.json: its base model '/gone/base'"):
            identity_at(write_adapter(tmp_path / "four", "/gone/base"))
        cyclic = write_adapter(tmp_path / "circle", str(tmp_path / "circle"))
        with pytest.raises(ModelError, match="its own base model"):
            identity_at(cyclic)
    with pytest.raises(ModelError, match="does not name its base"):
        identify(adapter)


def test_folder_without_weights_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="no safetensors weights"):
        identify(tmp_path)


# ---------------------------------------------------------------- cached identities


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record the weight files that are actually read."""
    files: list[Path] = []
    original = identity.hash_tensors

    def record_read(path: Path, progress: Any = None) -> Any:
        files.append(path)
        return original(path, progress)

    monkeypatch.setattr(identity, "hash_tensors", record_read)
    return files


@pytest.mark.usefixtures("no_racy_files")
def test_unchanged_folder_is_not_read_again(
    model_folder: Path, paths: Paths, reads: list[Path]
) -> None:
    reported: list[tuple[int, int]] = []
    with Store(paths.store) as store:
        first = identify(model_folder, store, progress=lambda *pair: reported.append(pair))
        size = (model_folder / "model.safetensors").stat().st_size
        assert reported[-1][1] == size
        assert size - 20_000 < max(done for done, _ in reported) <= size
        assert identify(model_folder, store) == first
        assert len(reads) == 1
    with Store(paths.store) as store:
        assert identify(model_folder, store) == first
    assert len(reads) == 1


@pytest.mark.usefixtures("no_racy_files")
def test_changed_file_is_read_again_despite_an_unchanged_mtime(
    model_folder: Path, paths: Paths, reads: list[Path]
) -> None:
    path = model_folder / "model.safetensors"
    with Store(paths.store) as store:
        before = identify(model_folder, store)
        stat = path.stat()
        with path.open("r+b") as stream:
            stream.seek(-1, 2)
            last = stream.read(1)[0]
            stream.seek(-1, 2)
            stream.write(bytes([last ^ 1]))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert path.stat().st_mtime_ns == stat.st_mtime_ns
        assert identify(model_folder, store) != before
        assert len(reads) == 2


def test_just_written_file_is_not_cached(
    model_folder: Path, paths: Paths, reads: list[Path]
) -> None:
    """Two writes within the clock's resolution have the same mtime."""
    with Store(paths.store) as store:
        os.utime(model_folder / "model.safetensors")
        identify(model_folder, store)
        identify(model_folder, store)
    assert len(reads) == 2


@pytest.mark.usefixtures("no_racy_files")
def test_cache_entry_of_another_file_is_not_used(
    model_folder: Path, tmp_path: Path, paths: Paths
) -> None:
    with Store(paths.store) as store:
        first = identify(model_folder, store)
        other = Path(shutil.copytree(model_folder, tmp_path / "other"))
        rewrite_tensors(other, lambda t: t["model.norm.weight"].add_(1))
        assert identify(other, store).weights != first.weights
        shutil.rmtree(model_folder)
        other.rename(model_folder)
        assert identify(model_folder, store).weights != first.weights


def test_progress_reaches_the_total_with_many_threads(tmp_path: Path) -> None:
    tensors = {f"t{n}": torch.rand(64, 64) for n in range(200)}
    save_file(tensors, tmp_path / "model.safetensors")
    reported: list[int] = []
    with without_hanging():
        identity.hash_tensors(tmp_path / "model.safetensors", reported.append)
    assert max(reported) == 200 * 64 * 64 * 4
    first_pass = hashlib.sha256()
    for row in identity.hash_tensors(tmp_path / "model.safetensors"):
        first_pass.update(repr(row).encode())
    second_pass = hashlib.sha256()
    for row in identity.hash_tensors(tmp_path / "model.safetensors"):
        second_pass.update(repr(row).encode())
    assert first_pass.digest() == second_pass.digest()


# ---------------------------------------------------------------- progress


def test_progress_is_reported_on_the_calling_thread(
    model_folder: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's reporter writes to the store, which must not be used from other threads."""
    from kdharness.harness.models import checkpoints
    from kdharness.harness.types import Run, RunStatus
    from kdharness.harness.worker import StoreReporter

    monkeypatch.setattr(checkpoints, "SHOWN_BYTES", 1)
    monkeypatch.setattr("kdharness.harness.worker.FLUSH_SECONDS", 0.0)
    with Store(paths.store) as store:
        run = Run(
            id="eval-1",
            method="eval",
            status=RunStatus.RUNNING,
            config={},
            config_hash="",
            folder="",
            created=1.0,
        )
        store.add_run(run)
        reporter = StoreReporter(store, run)
        callbacks = checkpoints.progress_callbacks(reporter, "big")
        checkpoint, _ = checkpoints.find_model(str(model_folder), paths, store, **callbacks)
        reporter.flush()
        run_row = store.run("eval-1")
    assert checkpoint.weights == identify(model_folder).weights
    assert run_row is not None and "reading the weights of big" in str(run_row.info)


def test_stop_interrupts_the_reading_of_weights(model_folder: Path) -> None:
    """The stop takes effect at once, not after the last tensor of a large model."""

    class Stopped(Exception):
        pass

    def stop(_: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        identity.hash_tensors(model_folder / "model.safetensors", stop)


def test_progress_ends_at_the_total(model_folder: Path) -> None:
    reported: list[tuple[int, int]] = []
    identify(model_folder, progress=lambda done, total: reported.append((done, total)))
    header = 8 + int.from_bytes((model_folder / "model.safetensors").read_bytes()[:8], "little")
    assert reported[-1][0] == reported[-1][1] - header
    assert [done for done, _ in reported] == sorted(done for done, _ in reported)
