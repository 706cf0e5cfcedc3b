"""Publishing on a hub that speaks the hub's own protocol on loopback."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.models.checkpoints import model_checkpoint
from kdharness.harness.paths import Paths
from kdharness.harness.reports.hub_card import BEGIN, hub_card
from kdharness.harness.reports.publish import _base_on_hub, prepare
from kdharness.harness.reports.upload import publish
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint
from support.commands import CommandLine
from support.hub_server import HubServer
from support.models import make_llama, make_tokenizer
from support.scored_store import verdict

REPO = "me/shop"


@pytest.fixture
def model(tmp_path: Path, paths: Paths) -> str:
    """Return the name of a stored model whose configs name local places."""
    folder = tmp_path / "trained"
    make_llama(folder, num_hidden_layers=1)
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**values, "name_or_path": str(tmp_path / "start")}), "utf-8")
    (folder / "training_args.bin").write_bytes(b"\0")
    (folder / "optimizer.pt").write_bytes(b"\0")
    (folder / "kdharness.json").write_text(json.dumps({"from": str(tmp_path)}), "utf-8")
    return model_checkpoint(paths, str(folder)).name


def metadata(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---")[1])
    return found


def index_of(card: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = metadata(card)["model-index"][0]["results"]
    return found


def test_a_published_model_loads_from_the_hub(
    hub: HubServer, model: str, kd: CommandLine, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    address = kd.ok("publish", model, "--to", REPO, "--private")
    assert address.strip() == f"{hub.url}/{REPO}" and hub.private
    files = hub.commits[hub.refs["main"]]
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert not {"training_args.bin", "optimizer.pt", "kdharness.json"} & set(files)
    assert not [name for name, data in files.items() if str(tmp_path).encode() in data]
    target = tmp_path / "downloaded"
    target.mkdir()
    for name, data in files.items():
        (target / name).write_bytes(data)
    AutoModelForCausalLM.from_pretrained(target)
    assert AutoTokenizer.from_pretrained(target).chat_template
    # The same once more: nothing is sent.
    before = len(hub.asked)
    assert kd.ok("publish", model, "--to", REPO) == address
    assert not [line for line in hub.asked[before:] if line.startswith(("POST", "PUT"))]


def test_a_dry_run_contacts_nobody(hub: HubServer, model: str, kd: CommandLine) -> None:
    shown = kd.ok("publish", model, "--to", REPO, "--dry-run")
    assert "model.safetensors" in shown and "library_name: transformers" in shown
    assert hub.asked == []


def test_nothing_is_overwritten_without_force(
    hub: HubServer, model: str, paths: Paths, tmp_path: Path
) -> None:
    old = {"README.md": b"mine", "model-00001-of-00002.safetensors": b"old", "notes.txt": b"kept"}
    # Of a former model; a license is the repository's.
    old |= {"adapter_config.json": b"{}", "LICENSE": b"MIT", "onnx/model.safetensors": b"onnx"}
    first = hub.push_files(old)
    found = prepare(paths, model, REPO)
    with pytest.raises(ConfigError, match=r"README\.md, adapter_config\.json, model-0") as caught:
        publish(found)
    assert "--force" in str(caught.value.hint) and hub.refs["main"] == first
    publish(found, force=True)
    files = hub.commits[hub.refs["main"]]
    assert files["README.md"] == found.card.encode() and files["notes.txt"] == b"kept"
    # A shard of the weights before would be loaded instead, or beside.
    assert not {"model-00001-of-00002.safetensors", "adapter_config.json"} & set(files)
    assert {"LICENSE", "onnx/model.safetensors"} <= set(files)


FORMER = b"""---
license: llama3.2
extra_gated_prompt: Agree first.
tags: [kdharness, shop]
model-index: [{name: x, results: []}]
base_model: org/other
widget: [{text: Hello}]
---
# Mine
"""


def test_terms_and_access_rules_are_kept(hub: HubServer, model: str, paths: Paths) -> None:
    """Public reports: a push to the hub that drops the license and the gate."""
    other = {"model.safetensors": b"old", ".eval_results/lab_a.yaml": b"[]", "eval.yaml": b""}
    hub.push_files({"README.md": FORMER, **other})
    publish(prepare(paths, model, REPO), force=True)
    files = hub.commits[hub.refs["main"]]
    found = metadata(files["README.md"].decode())
    assert found["license"] == "llama3.2" and found["extra_gated_prompt"] == "Agree first."
    # Of the former weights.
    assert not {"widget", "base_model", "model-index"} & set(found)
    assert "shop" not in found["tags"]
    assert ".eval_results/lab_a.yaml" not in files and "eval.yaml" in files
    assert b"# Mine" not in files["README.md"]
    # Of these weights: what people have added since stays, and needs no --force.
    mine = files["README.md"].replace(b"tags:\n", b"widget: [{text: Hello}]\ntags:\n- shop\n")
    # In any order, saved by an editor of another system.
    mine = mine.replace(b"license: llama3.2\n", b"")
    mine = mine.replace(b"---\n", b"---\nlicense: 'llama3.2'\n", 1).replace(b"\n", b"\r\n")
    hub.push_files({**files, "README.md": mine, ".eval_results/lab_a.yaml": b"[]"})
    assert publish(prepare(paths, model, REPO))[1] == 0
    files = hub.commits[hub.refs["main"]]
    found = metadata(files["README.md"].decode())
    assert found["widget"] == [{"text": "Hello"}] and "shop" in found["tags"]
    assert ".eval_results/lab_a.yaml" in files
    # So does text around what is written here.
    mine = (
        files["README.md"].replace(BEGIN.encode(), b"# Mine\n\n" + BEGIN.encode()) + b"\nNotes.\n"
    )
    hub.push_files({**files, "README.md": mine})
    publish(prepare(paths, model, REPO), force=True)
    assert hub.commits[hub.refs["main"]]["README.md"] == mine
    # What is given by hand replaces what there is.
    mine = mine.replace(b"license: llama3.2", b"license: other\nlicense_name: ours")
    hub.push_files({**files, "README.md": mine})
    publish(prepare(paths, model, REPO, license="mit"), force=True)
    files = hub.commits[hub.refs["main"]]
    text = files["README.md"].decode()
    assert metadata(text)["license"] == "mit" and "license_name" not in metadata(text)
    assert text.count("# Mine") == text.count("## Scores") == 1 and text.endswith("\nNotes.\n")


@pytest.mark.parametrize("head", [b"\n", b"\xef\xbb\xbf", b"\r\n\r\n"])
def test_what_an_editor_puts_before_the_metadata_hides_none(
    head: bytes, hub: HubServer, model: str, paths: Paths
) -> None:
    hub.push_files({"README.md": head + FORMER})
    publish(prepare(paths, model, REPO), force=True)
    text = hub.commits[hub.refs["main"]]["README.md"].decode()
    assert metadata(text)["license"] == "llama3.2" and text.count("llama3.2") == 1


@pytest.mark.parametrize(
    ("former", "message"),
    [
        (b"---\nlicense: mit\nlicense: x\n---\n", "cannot be read"),
        (b"---\na: [\n---", "cannot be read"),
        (b"---\nlicense: mit\n---\n" + b"x" * 5_000_000, "too large"),
    ],
    ids=["twice", "broken", "large"],
)
def test_a_card_that_cannot_be_merged_is_not_replaced(
    former: bytes, message: str, hub: HubServer, model: str, paths: Paths
) -> None:
    first = hub.push_files({"README.md": former})
    with pytest.raises(ConfigError, match=message) as caught:
        publish(prepare(paths, model, REPO), force=True)
    assert "on the hub" in str(caught.value.hint) and hub.refs["main"] == first


def test_a_license_keeps_its_own_name_and_link(hub: HubServer, model: str, paths: Paths) -> None:
    card = b"---\nlicense: other\nlicense_name: ours\nlicense_link: LICENSE\n---\n"
    hub.push_files({"README.md": card})
    publish(prepare(paths, model, REPO, license="other"), force=True)
    text = hub.commits[hub.refs["main"]]["README.md"].decode()
    assert metadata(text)["license_name"] == "ours"


@pytest.mark.parametrize(
    ("present", "kept"),
    [
        ({"pytorch_model.bin": b"old", "pytorch_model.bin.index.json": b"{}"}, False),
        ({"adapter_model.bin": b"old"}, False),
        ({"adapter_config.json": b"{}"}, True),
        ({"tokenizer_notes.md": b"mine", "vocab_growth.png": b""}, True),
    ],
    ids=["pickled", "adapter", "config", "notes"],
)
def test_scores_go_with_the_weights_that_they_are_of(
    present: dict[str, bytes], kept: bool, hub: HubServer, model: str, paths: Paths
) -> None:
    hub.push_files({**present, ".eval_results/a.yaml": b"[]"})
    publish(prepare(paths, model, REPO), force=True)
    files = hub.commits[hub.refs["main"]]
    assert (".eval_results/a.yaml" in files) == kept
    people = {name for name in present if name.endswith((".md", ".png"))}
    assert {name for name in present if name in files} == people


@pytest.mark.parametrize("former", [b"", b"# Mine", b"---\n- 1\n---\n", b"\xff"])
def test_a_card_without_metadata_is_replaced(
    former: bytes, hub: HubServer, model: str, paths: Paths
) -> None:
    hub.push_files({"README.md": former})
    found = prepare(paths, model, REPO, license="apache-2.0")
    publish(found, force=True)
    assert hub.commits[hub.refs["main"]]["README.md"] == found.card.encode()
    assert metadata(found.card)["license"] == "apache-2.0"


def test_a_repository_that_was_prepared_keeps_its_metadata(
    hub: HubServer, model: str, paths: Paths
) -> None:
    """It has a card, and perhaps weights for another library, but not these."""
    hub.push_files(
        {"README.md": FORMER, "onnx/model.safetensors": b"", ".eval_results/a.yaml": b""}
    )
    publish(prepare(paths, model, REPO), force=True)
    files = hub.commits[hub.refs["main"]]
    assert {"widget", "license"} <= set(metadata(files["README.md"].decode()))
    assert ".eval_results/a.yaml" in files


@pytest.mark.parametrize("license", ["Apache 2.0", "my own", "https://x.y"])
def test_a_license_is_written_as_the_hub_does(license: str, model: str, paths: Paths) -> None:
    with pytest.raises(ConfigError, match="is not a license of the hub"):
        prepare(paths, model, REPO, license=license)


def test_scores_of_other_weights_are_not_published(model: str, paths: Paths) -> None:
    """A folder that was trained into again has the name, but not the scores."""
    with Store(paths.store) as store:
        known = store.checkpoint(model)
    assert known is not None
    make_llama(Path(known.path), num_hidden_layers=1, seed=7)
    with pytest.raises(ModelError, match="has changed") as caught:
        prepare(paths, model, REPO)
    assert "evaluate it again" in str(caught.value.hint)
    # As an evaluation does: the name is that of the present content.
    assert model_checkpoint(paths, known.path).name == model
    assert prepare(paths, model, REPO).files


def test_an_interrupted_upload_is_resumed(hub: HubServer, model: str, paths: Paths) -> None:
    found = prepare(paths, model, REPO)
    hub.lost = 1
    with pytest.raises(ModelError, match="could not publish") as caught:
        publish(found)
    assert "try again" in str(caught.value.hint)
    assert hub.commits[hub.refs["main"]] == {}, "nothing is visible before all files are there"
    arrived = len(hub.large)
    sent = [line for line in hub.asked if line.startswith("PUT")]
    publish(found)
    again = [line for line in hub.asked if line.startswith("PUT")][len(sent) :]
    assert len(again) == 2 - arrived
    assert "model.safetensors" in hub.commits[hub.refs["main"]]


def test_somebody_elses_commit_is_not_lost(
    hub: HubServer, model: str, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push_files({"notes.txt": b"first"})
    take = hub.take

    def meanwhile(path: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        if path.endswith("/preupload/main"):
            hub.push_files({"notes.txt": b"second"})
        return take(path, body, headers)

    monkeypatch.setattr(hub, "take", meanwhile)
    with pytest.raises(ModelError, match="has changed meanwhile"):
        publish(prepare(paths, model, REPO))
    assert hub.commits[hub.refs["main"]] == {"notes.txt": b"second"}


@pytest.mark.parametrize("token", ["", "hf_mayonlyread"])
def test_no_access_says_what_to_do(
    token: str, hub: HubServer, model: str, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelError, match="no access to write me/shop") as caught:
        publish(prepare(paths, model, REPO))
    assert "hf auth login" in str(caught.value.hint)
    assert token not in str(caught.value) or not token


def test_a_public_repository_is_not_taken_for_a_private_one(
    hub: HubServer, model: str, paths: Paths
) -> None:
    hub.push_files({})
    with pytest.raises(ConfigError, match="exists and is public"):
        publish(prepare(paths, model, REPO), private=True)


def test_scores_are_told_with_their_intervals(model: str, paths: Paths, tmp_path: Path) -> None:
    with Store(paths.store) as store:
        checkpoint = store.checkpoint(model)
        assert checkpoint is not None
        for bench, count in (("shop", 20), ("tiny", 2)):
            more = {"bench": bench, "metric": "score", "category": ""}
            rows = [verdict("x", i, float(i % 2), **more) for i in range(count)]
            store.add_judgments([replace(row, checkpoint=checkpoint.id) for row in rows])
    card = prepare(paths, model, REPO).card
    index = metadata(card)["model-index"][0]
    (result,) = index["results"]
    assert index["name"] == model and result["dataset"]["name"] == "shop"
    metric = result["metrics"][0]
    assert metric["value"] == 0.5 and "95 % 0.25 to 0.75, n = 20" in metric["name"]
    assert metric["args"]["n"] == 20 and "args" not in result["dataset"]
    assert "| tiny | score | 0.5 |" in card
    assert metadata(card)["library_name"] == "transformers"


def test_each_judge_has_its_own_number_and_an_untested_one_none(model: str, paths: Paths) -> None:
    """A panel is no better tested than its judges."""
    with Store(paths.store) as store:
        checkpoint = store.checkpoint(model)
        assert checkpoint is not None
        for judge, count in (("a:1", 20), ("b:2", 12), ("c:3", 12)):
            for bench in ("shop",) if judge == "c:3" else ("shop", "both"):
                more = {"bench": bench, "metric": "score", "category": "", "judge": judge}
                rows = [verdict(judge, i, float(i % 2), **more) for i in range(count)]
                store.add_judgments([replace(row, checkpoint=checkpoint.id) for row in rows])
        for judge in ("a:1", "b:2"):
            store.add_card(judge, {"labels": []})
    card = prepare(paths, model, REPO).card
    found = {result["dataset"]["name"]: result for result in index_of(card)}
    numbers = {
        (bench, metric["args"]["judge"]): metric["args"]["n"]
        for bench, result in found.items()
        for metric in result["metrics"]
    }
    assert numbers == {
        ("shop", "a:1"): 20,
        ("shop", "b:2"): 12,
        ("both", "a:1"): 20,
        ("both", "b:2"): 12,
        ("both", "panel:a:1+b:2"): 12,
    }
    assert "panel:a:1+b:2+c:3 | judge:untested" in card


@pytest.mark.parametrize(
    ("method", "parents", "bases"),
    [
        ("dae", {"student": "of-small", "expert": "large"}, ["org/small"]),
        # Teachers give no weights, but for a student that is cut from one.
        ("cut", {"teacher": "large"}, ["org/large"]),
        ("merge", {"reference": "of-small", "expert": "small-too"}, ["org/small"]),
        ("merge", {"model 1": "large", "model 2": "of-small"}, ["org/large", "org/small"]),
        ("sft", {"student": "merged"}, ["org/large", "org/small"]),
        ("kd", {"adapter": "of-small"}, ["org/small"]),
        ("sft", {"student": "half"}, ["org/large"]),
        ("sft", {"student": "trainings"}, None),
        ("sft", {"student": "gone"}, None),
    ],
    ids=str,
)
def test_the_base_models_are_those_whose_weights_it_continues(
    method: str, parents: dict[str, str], bases: list[str] | None, store: Store, paths: Paths
) -> None:
    known = {
        "small": ("org/small", "model", {}),
        "large": ("a name", "model", {}),
        # Made here: a name like a hub id is not one.
        "half": ("org/large-cut2", "cut", {"teacher": "large"}),
        "trainings": ("runs/final", "model", {}),
        "of-small": ("kd", "kd", {"student": "small", "teacher": "large"}),
        "small-too": ("expert", "sft", {"student": "of-small"}),
        "merged": ("mix", "merge", {"model 1": "large", "model 2": "of-small"}),
        "it": ("it", method, parents),
    }
    places = {"small": "org/small@" + "a" * 40, "large": "org/large@" + "b" * 40}
    for key, (name, made, given) in known.items():
        path = places.get(key, f"/models/{key}")
        store.add_checkpoint(Checkpoint(key, name, made, path, 1.0, parents=given))
    it = store.checkpoint("it")
    assert it is not None
    assert metadata(hub_card(store, paths, it, adapter=False)).get("base_model") == bases


@pytest.mark.slow
def test_adapters_name_their_base_or_are_merged(
    hub: HubServer, tmp_path: Path, kd: CommandLine, paths: Paths
) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors import safe_open

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    get_peft_model(make_llama(base), LoraConfig(r=2)).save_pretrained(adapter)
    make_tokenizer(adapter)
    path = adapter / "adapter_config.json"
    values = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**values, "base_model_name_or_path": str(base)}), "utf-8")
    code, _, err = kd("publish", str(adapter), "--to", REPO)
    assert code == 2 and "base is a local model" in err and "--merged" in err
    kd.ok("publish", str(adapter), "--to", REPO, "--merged")
    files = hub.commits[hub.refs["main"]]
    assert "adapter_config.json" not in files
    (tmp_path / "got.safetensors").write_bytes(files["model.safetensors"])
    with safe_open(tmp_path / "got.safetensors", "pt") as tensors:
        assert not [name for name in tensors.keys() if "lora" in name]  # noqa: SIM118
    # By its hub id, with the revision that it was trained on.
    pinned = {**values, "base_model_name_or_path": "org/base", "revision": "c" * 40}
    path.write_text(json.dumps(pinned), "utf-8")
    hub.asked.clear()
    assert _base_on_hub(adapter, paths) == ("org/base", "c" * 40)
    # A stored model of that name is local, whatever its name looks like.
    with Store(paths.store) as store:
        made = store.checkpoint(base.name)
        assert made is not None
        store.rename_checkpoint(made, "org/base", path=made.path)
    path.write_text(json.dumps({**pinned, "revision": None}), "utf-8")
    with pytest.raises(ConfigError, match=r"is a local model \(org/base\)"):
        _base_on_hub(adapter, paths)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"quantization_config": {"cache": "/home/me/cache"}}, "quantization_config.cache"),
        ({"notes": ["file:///data/x"]}, "notes"),
    ],
)
def test_a_local_path_in_a_config_is_named(
    changes: dict[str, Any], where: str, tmp_path: Path, paths: Paths
) -> None:
    make_llama(tmp_path / "m", num_hidden_layers=1)
    name = model_checkpoint(paths, str(tmp_path / "m")).name
    config = tmp_path / "m" / "generation_config.json"
    values = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**values, **changes}), "utf-8")
    with pytest.raises(ModelError, match=f"{where} of generation_config.json names a local path"):
        prepare(paths, name, REPO)


def test_a_key_is_not_published(
    model: str, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-verysecret-0123456789")
    template = tmp_path / "trained" / "chat_template.jinja"
    template.write_text(template.read_text("utf-8") + "{# sk-verysecret-0123456789 #}", "utf-8")
    with pytest.raises(ModelError, match="holds a key"):
        prepare(paths, model, REPO)


@pytest.mark.parametrize("repo", ["shop", "me/shop/x", "me/shop@main", "../x", "/tmp/x", ""])
def test_what_is_not_a_repository_is_refused(repo: str, model: str, paths: Paths) -> None:
    with pytest.raises(ConfigError, match="is not a hub id"):
        prepare(paths, model, repo)


def test_a_file_that_is_no_text_is_refused_by_name(model: str, paths: Paths) -> None:
    with Store(paths.store) as store:
        known = store.checkpoint(model)
    assert known is not None
    (Path(known.path) / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="not UTF-8") as caught:
        prepare(paths, model, REPO)
    assert "vocab.txt" in str(caught.value.where)


def test_a_report_replaces_no_other_markdown(kd: CommandLine, paths: Paths) -> None:
    page = paths.home / "README.md"
    paths.home.mkdir(parents=True, exist_ok=True)
    page.write_text("mine", "utf-8")
    code, _, err = kd("report", "--output", str(page.with_suffix(".html")))
    assert code == 2 and "would replace" in err and page.read_text("utf-8") == "mine"
    page.unlink()
    for _ in range(2):
        kd.ok("report", "--output", str(page.with_suffix(".html")))
    assert page.exists()
