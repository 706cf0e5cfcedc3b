"""Hub models are pinned to commits: identified and loaded by commit, also offline."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from kdharness.harness.errors import ModelError
from kdharness.harness.models import hub
from kdharness.harness.models.checkpoints import find_model
from kdharness.harness.models.hub import pinned, short_name, split_hub_name
from kdharness.harness.models.loading import load_config_of, load_model, load_tokenizer
from kdharness.harness.models.resolve import resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.hub_server import HubServer

NAME = "org/tiny"


@pytest.fixture
def hub_server(
    tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    server = HubServer(NAME)
    server.push(tiny_teacher, **{"consolidated.safetensors": b"x", "pytorch_model.bin": b"pickle"})
    server.use(monkeypatch, tmp_path / "cache")
    yield server
    server.server.shutdown()
    hub.commit_of.cache_clear()


def changed_copy(tiny_teacher: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_teacher, tmp_path / "changed"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", ("org/name", None)),
        ("org/name@main", ("org/name", "main")),
        ("org/name@refs/pr/3", ("org/name", "refs/pr/3")),
        ("name", None),
        ("./org/name", None),
        ("/abs/name", None),
        ("org/name/more", None),
        ("a\nb/c", None),
    ],
)
def test_split_hub_name(text: str, expected: tuple[str, str | None] | None) -> None:
    assert split_hub_name(text) == expected


def test_hub_name_resolves_to_its_current_commit(hub_server: HubServer, paths: Paths) -> None:
    commit = hub_server.refs["main"]
    assert resolve_model(NAME, paths) == f"{NAME}@{commit}"
    assert pinned(f"{NAME}@{commit}") == f"{NAME}@{commit}"
    assert short_name(f"{NAME}@{commit}") == f"{NAME}@{commit[:7]}"
    with pytest.raises(ModelError, match="has no revision nowhere"):
        resolve_model(f"{NAME}@nowhere", paths)
    with pytest.raises(ModelError, match="the hub has no model org/other"):
        resolve_model("org/other", paths)


def test_only_needed_files_and_no_pickles_are_downloaded(
    hub_server: HubServer, paths: Paths
) -> None:
    assert load_config_of(NAME, paths).hidden_size == 32
    assert load_tokenizer(NAME, paths).chat_template
    assert not any(
        "safetensors" in line for line in hub_server.asked if line.startswith("GET /org")
    )
    assert load_model(NAME, paths).config.hidden_size == 32
    downloads = [line for line in hub_server.asked if line.startswith("GET /org")]
    assert any("/model.safetensors" in line for line in downloads)
    assert not any("consolidated" in line or ".bin" in line for line in downloads)


def test_hostile_safetensors_header_from_the_hub_is_rejected(
    hub_server: HubServer, tiny_teacher: Path, paths: Paths
) -> None:
    hub_server.push(tiny_teacher, **{"model.safetensors": b"\xff" * 64})
    with pytest.raises(ModelError, match="its header claims"):
        load_model(NAME, paths)


def test_hub_name_follows_a_new_commit(
    hub_server: HubServer, tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    first_commit = hub_server.refs["main"]
    with Store(paths.store) as store:
        first, source = find_model(NAME, paths, store)
        assert (first.name, source) == (NAME, f"{NAME}@{first_commit}")
        hub_server.push(changed_copy(tiny_teacher, tmp_path))
        hub.commit_of.cache_clear()
        messages: list[str] = []
        second, _ = find_model(NAME, paths, store, say=messages.append)
        assert second.name == NAME and second.id != first.id
        previous = store.checkpoint(first.id)
        assert previous is not None and previous.name == f"{NAME}@{first_commit[:7]}"
        assert previous.path == f"{NAME}@{first_commit}"
        assert "its weights have changed" in messages[0]
        # The earlier commit can still be named, evaluated and loaded.
        earlier, source = find_model(f"{NAME}@{first_commit}", paths, store)
        assert earlier.id == first.id and source == f"{NAME}@{first_commit}"
        by_name, _ = find_model(f"{NAME}@{first_commit[:7]}", paths, store)
        assert by_name.id == first.id
    old = load_model(f"{NAME}@{first_commit}", paths).model.norm.weight
    assert float((load_model(NAME, paths).model.norm.weight - old).abs().min()) > 0.5


def test_cached_commit_is_used_offline(
    hub_server: HubServer, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model(NAME, paths)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.commit_of.cache_clear()
    assert resolve_model(NAME, paths) == f"{NAME}@{hub_server.refs['main']}"
    assert load_model(NAME, paths).config.hidden_size == 32
    with pytest.raises(ModelError, match="org/never is not in the local cache"):
        resolve_model("org/never", paths)


def test_adapter_base_is_pinned_to_a_commit(
    hub_server: HubServer, tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    import json

    from peft import LoraConfig, get_peft_model

    commit = hub_server.refs["main"]
    model = get_peft_model(load_model(NAME, paths), LoraConfig(r=2, target_modules=["q_proj"]))
    model.peft_config["default"].base_model_name_or_path = NAME
    model.peft_config["default"].revision = commit
    model.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["revision"] == commit
    hub_server.push(changed_copy(tiny_teacher, tmp_path))
    hub.commit_of.cache_clear()
    loaded = load_model(str(tmp_path / "adapter"), paths)
    assert float(loaded.model.norm.weight.mean()) == pytest.approx(1.0)
