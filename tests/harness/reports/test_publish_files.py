"""What of a folder is published, so that others load it: public reports of other tools."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.errors import ModelError
from kdharness.harness.models.checkpoints import model_checkpoint
from kdharness.harness.models.older_readers import (
    older_config,
    older_notes,
    older_tokenizer,
)
from kdharness.harness.paths import Paths
from kdharness.harness.reports.publish import prepare, published_files
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.exports import make_family
from support.models import make_llama
from support.scored_store import verdict

REPO = "me/shop"
LINEAR = {"rope_theta": 500000.0, "rope_type": "linear", "factor": 4.0}


def contents(part: Path | bytes) -> Any:
    return json.loads(part if isinstance(part, bytes) else part.read_text("utf-8"))


LAYERS = {
    "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
    "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
}


def test_older_programs_read_the_rotary_base(paths: Paths, tmp_path: Path) -> None:
    """Public reports: nonsense from vLLM after training with transformers 5."""
    make_family(tmp_path / "m", "Llama", rope_parameters=LINEAR)
    name = model_checkpoint(paths, str(tmp_path / "m")).name
    files = prepare(paths, name, REPO).files
    config = contents(files["config.json"])
    assert config["rope_theta"] == 500000.0 and config["torch_dtype"] == config["dtype"]
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert config["rope_parameters"] == LINEAR
    tokens = contents(files["tokenizer_config.json"])
    assert tokens["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "is_local" not in tokens


@pytest.mark.parametrize(
    ("config", "added"),
    [
        ({}, {}),
        ({"rope_theta": 1.0, "rope_parameters": {"rope_theta": 2.0}}, {}),
        ({"rope_parameters": {"full_attention": {"rope_theta": 2.0}}}, {}),
        ({"rope_parameters": {"rope_theta": 2.0}}, {"rope_theta": 2.0}),
        ({"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}),
        (
            {"rope_parameters": {"rope_theta": 2.0, "partial_rotary_factor": 0.5}},
            {"rope_theta": 2.0, "partial_rotary_factor": 0.5},
        ),
        (
            {"model_type": "gemma3_text", "rope_parameters": LAYERS},
            {
                "rope_theta": 1e6,
                "rope_local_base_freq": 1e4,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
        ),
    ],
)
def test_older_names_are_added_and_none_is_changed(
    config: dict[str, Any], added: dict[str, Any]
) -> None:
    assert older_config(config) == {**config, **added}
    assert older_config(older_config(config)) == older_config(config)


def test_the_settings_of_a_models_text_part_are_named_too() -> None:
    text = {"model_type": "gemma3_text", "rope_parameters": LAYERS}
    found = older_config({"model_type": "gemma3", "text_config": text})
    assert found["text_config"] == older_config(text) != text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gemma3_text", "rope_parameters": LAYERS}, []),
        ({"model_type": "llama", "rope_parameters": {"rope_theta": 2.0}}, []),
        ({}, []),
        ({"model_type": "laguna", "rope_parameters": LAYERS}, ["full_attention"]),
        ({"text_config": {"model_type": "x", "rope_parameters": LAYERS}}, ["full_attention"]),
        (
            {
                "model_type": "gemma3_text",
                "rope_parameters": LAYERS
                | {"sliding_attention": {"rope_theta": 1e4, "rope_type": "yarn"}},
            },
            ["sliding_attention"],
        ),
    ],
)
def test_what_has_no_older_name_is_said(config: dict[str, Any], said: list[str]) -> None:
    notes = older_notes(config)
    assert len(notes) == len(said)
    assert all(word in note for word, note in zip(said, notes, strict=True))
    # What is said holds for what was written, too.
    assert older_notes(older_config(config)) == notes


def test_the_publisher_is_told_what_has_no_older_name(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_llama(tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(json.dumps(contents(config) | {"rope_parameters": LAYERS}), "utf-8")
    name = model_checkpoint(paths, str(tmp_path / "m")).name
    code, _, said = CommandLine(paths.home, capsys)("publish", name, "--to", REPO, "--dry-run")
    assert code == 0 and "note: programs with transformers 4 cannot read" in said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda part: (
        st.lists(part, max_size=2) | st.dictionaries(st.text(max_size=4), part, max_size=2)
    ),
)


@given(st.dictionaries(st.sampled_from(["rope_parameters", "dtype", "rope_theta", "x"]), JSON))
def test_any_config_keeps_what_it_has(config: dict[str, Any]) -> None:
    found = older_config(config)
    assert {key: found[key] for key in config} == config


def test_a_tokenizers_own_class_stays() -> None:
    assert older_tokenizer({"tokenizer_class": "Qwen2Tokenizer", "is_local": True}) == {
        "tokenizer_class": "Qwen2Tokenizer"
    }


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"extra_special_tokens": ["<a>", "<b>"]},
            {"additional_special_tokens": ["<a>", "<b>"]},
        ),
        (
            {"extra_special_tokens": ["<a>", "<b>"], "additional_special_tokens": ["<b>", "<c>"]},
            {"additional_special_tokens": ["<b>", "<c>", "<a>"]},
        ),
        ({"extra_special_tokens": []}, {"additional_special_tokens": []}),
        ({"extra_special_tokens": {"x": "<a>"}}, {"extra_special_tokens": {"x": "<a>"}}),
        (
            {"extra_special_tokens": ["<a>"], "model_specific_special_tokens": {"x": "<x>"}},
            {
                "additional_special_tokens": ["<a>"],
                "extra_special_tokens": {"x": "<x>"},
                "model_specific_special_tokens": {"x": "<x>"},
            },
        ),
    ],
)
def test_a_list_of_special_tokens_has_its_older_name(
    config: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Public reports: 'list' object has no attribute 'keys', from transformers 4."""
    assert older_tokenizer(config) == expected
    assert older_tokenizer(expected) == expected


def test_code_brings_the_modules_that_it_imports(tmp_path: Path) -> None:
    """Public reports: a model with code of its own that cannot be loaded from the hub."""
    make_llama(tmp_path / "m")
    for name, text in {
        "modeling_own.py": "from .layers import Layer\nimport torch\n",
        "layers.py": "if True:\n    from .ops import run\n",
        "ops.py": "from .gone import x\nfrom .layers import Layer\n",
        "train.py": "from .secret import x\n",
        "secret.py": "",
    }.items():
        (tmp_path / "m" / name).write_text(text, "utf-8")
    names = {path.name for path in published_files(tmp_path / "m")}
    assert {"modeling_own.py", "layers.py", "ops.py"} <= names
    assert not {"train.py", "secret.py", "gone.py"} & names


def test_code_is_published_under_any_name_that_a_config_gives_it(tmp_path: Path) -> None:
    make_llama(tmp_path / "m")
    classes = {
        "AutoConfig": "settings.Settings",
        "AutoModel": "org/code--elsewhere.Model",
        "AutoModelForCausalLM": "../outside.Model",
    }
    for name, added in (
        ("config.json", classes),
        ("tokenizer_config.json", {"AutoTokenizer": ["words.Words", None]}),
    ):
        path = tmp_path / "m" / name
        path.write_text(json.dumps(contents(path) | {"auto_map": added}), "utf-8")
    processor = {"auto_map": {"AutoProcessor": "processing_own.Own"}}
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(processor), "utf-8")
    names = ("settings", "words", "elsewhere", "train", "processing_own")
    for path in (tmp_path / "outside.py", *(tmp_path / "m" / f"{name}.py" for name in names)):
        path.write_text("", "utf-8")
    for name in ("NOTICE", "USE_POLICY.md", "COPYING", "tokenizer-notes.md"):
        (tmp_path / "m" / name).write_text("{}", "utf-8")
    found = {path.name for path in published_files(tmp_path / "m")}
    assert "tokenizer-notes.md" not in found
    code = {name for name in found if name.endswith(".py")}
    assert code == {"settings.py", "words.py", "processing_own.py"}
    assert {"preprocessor_config.json", "NOTICE", "USE_POLICY.md", "COPYING"} <= found


def test_further_chat_templates_are_published(paths: Paths, tmp_path: Path) -> None:
    make_llama(tmp_path / "m")
    folder = tmp_path / "m" / "additional_chat_templates"
    folder.mkdir()
    (folder / "tool_use.jinja").write_text("{{ messages }}", "utf-8")
    (folder / "notes.txt").write_text("mine", "utf-8")
    name = model_checkpoint(paths, str(tmp_path / "m")).name
    files = prepare(paths, name, REPO).files
    assert "additional_chat_templates/tool_use.jinja" in files
    assert not [file for file in files if "notes" in file]


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_scores_that_are_no_numbers_are_not_in_the_metadata(
    value: float, paths: Paths, tmp_path: Path
) -> None:
    """The hub refuses a card whose metadata have a value that JSON has not."""
    make_llama(tmp_path / "m")
    known = model_checkpoint(paths, str(tmp_path / "m"))
    with Store(paths.store) as store:
        scores = [value if n == 3 else 1.0 for n in range(9)]
        named = {"bench": "shop", "metric": "score", "category": ""}
        rows = [verdict("x", n, score, **named) for n, score in enumerate(scores)]
        store.add_judgments([replace(row, checkpoint=known.id) for row in rows])
    card = prepare(paths, known.name, REPO).card
    metadata = yaml.safe_load(card.split("---")[1])
    text = json.dumps(metadata)
    assert "Infinity" not in text and "NaN" not in text
    assert "| shop | score |" in card


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE.md", "LICENSE.txt"])
def test_terms_are_searched_for_keys_in_any_encoding(
    name: str, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_llama(tmp_path / "m")
    known = model_checkpoint(paths, str(tmp_path / "m"))
    (tmp_path / "m" / name).write_bytes(b"\xa9 me")
    assert name in prepare(paths, known.name, REPO).files
    monkeypatch.setenv("OPENAI_API_KEY", "sk-verysecret-0123456789")
    (tmp_path / "m" / name).write_bytes(b"\xa9 me sk-verysecret-0123456789")
    with pytest.raises(ModelError, match="holds a key"):
        prepare(paths, known.name, REPO)
