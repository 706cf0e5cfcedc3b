"""Token ids and row lengths are checked against the model's limits before torch sees them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from kdharness.harness.errors import DataError
from kdharness.harness.models.limits import ModelLimits, limits_of, usable_pad
from kdharness.harness.models.loading import load_model, meta_model
from kdharness.harness.paths import Paths
from kdharness.harness.types import Finish, GenerationRequest
from kdharness.judges.engines.local import LocalEngine
from support.commands import CommandLine
from support.models import make_llama, make_tokenizer


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a tiny GPT-2 with 64 learned positions."""
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    tokenizer = make_tokenizer(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        eos_token_id=1,
        bos_token_id=1,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def extra_token_model(tiny_teacher: Path, tmp_path: Path) -> Path:
    """Create a model whose tokenizer has one more token than the model embeds."""
    folder = Path(shutil.copytree(tiny_teacher, tmp_path / "beyond"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes an SFT config for given rows and returns its path."""

    def write(model: Path, rows: list[dict[str, str]], max_length: int, **more: Any) -> str:
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        values = {
            "method": "sft",
            "student": str(model),
            "data": {"train": str(data), "max_length": max_length},
            "trainer": {"max_steps": 1, "batch_size": 2},
            **more,
        }
        path = tmp_path / "c.yaml"
        path.write_text(yaml.safe_dump(values), "utf-8")
        return str(path)

    return write


COMMANDS = [
    ("config", "check"),
    ("plan",),
    ("selfcheck",),
    pytest.param(("train",), marks=pytest.mark.slow),
]
LONG = [{"prompt": "Say it.", "completion": "on and on " * 60}, {"prompt": "a", "completion": "b"}]
EXTRA = [{"prompt": "Say it.", "completion": "so <extra> it is"}]


def test_model_limits(gpt2: Path, tiny_teacher: Path, paths: Paths) -> None:
    for load in (load_model, meta_model):
        assert limits_of(load(str(gpt2), paths)) == ModelLimits(400, 64, 64)
        assert limits_of(load(str(tiny_teacher), paths)) == ModelLimits(400, None, 512)
    assert usable_pad(2, ModelLimits(400, None)) == 2
    assert usable_pad(400, ModelLimits(400, None)) == 0
    assert usable_pad(None, ModelLimits(400, None)) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_rows_longer_than_the_position_table_are_rejected(
    command: tuple[str, ...], gpt2: Path, write_config: Callable[..., str], kd: CommandLine
) -> None:
    code, _, err = kd(*command, write_config(gpt2, LONG, 256))
    assert code == 2 or (command == ("train",) and code == 1), err
    assert "data.max_length is 256" in err and "has only 64 positions" in err
    assert "rows.jsonl:1" in err and "Traceback" not in err and "IndexError" not in err


@pytest.mark.slow
def test_rows_within_the_position_table_train_and_plan(
    gpt2: Path, write_config: Callable[..., str], kd: CommandLine
) -> None:
    file = write_config(gpt2, LONG, 64)
    assert kd("config", "check", file)[0] == 0
    code, out, err = kd("plan", file, "--format", "json")
    assert code == 0, err
    figures = {row["figure"]: row["value"] for row in json.loads(out)}
    model = GPT2LMHeadModel.from_pretrained(gpt2)
    assert figures["parameters student"] == sum(p.numel() for p in model.parameters())
    code, _, err = kd("train", file)
    assert code == 0, err
    # A max_length beyond the limit is accepted if no row is that long.
    assert kd("config", "check", write_config(gpt2, LONG[1:], 4096))[0] == 0


def test_rows_longer_than_a_rotary_models_context_are_a_warning(
    tmp_path: Path, write_config: Callable[..., str], kd: CommandLine
) -> None:
    make_llama(tmp_path / "short", max_position_embeddings=16)
    code, _, err = kd("config", "check", write_config(tmp_path / "short", LONG, 64))
    assert code == 0 and "was trained on 16" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_token_ids_beyond_the_embedding_are_rejected(
    command: tuple[str, ...],
    extra_token_model: Path,
    write_config: Callable[..., str],
    kd: CommandLine,
) -> None:
    code, _, err = kd(*command, write_config(extra_token_model, EXTRA, 64))
    assert code in (1, 2), err
    assert "has 401 tokens, but the model embeds only 400: '<extra>' (id 400) is out of" in err
    assert "rows.jsonl:1" in err and "Traceback" not in err


@pytest.mark.slow
def test_unused_token_beyond_the_embedding_is_accepted(
    extra_token_model: Path, write_config: Callable[..., str], kd: CommandLine
) -> None:
    """An added padding token without an embedding is common."""
    tokenizer = AutoTokenizer.from_pretrained(extra_token_model)
    tokenizer.pad_token = "<extra>"
    tokenizer.save_pretrained(extra_token_model)
    code, _, err = kd("train", write_config(extra_token_model, LONG, 64))
    assert code == 0, err


def test_teacher_limits_are_checked_as_well(
    gpt2: Path,
    tiny_teacher: Path,
    write_config: Callable[..., str],
    kd: CommandLine,
    tmp_path: Path,
) -> None:
    small = tmp_path / "small"
    make_llama(small, vocab_size=300)
    rows = [{"prompt": "Which mugs?", "completion": "Copper mugs from the Mill Yard."}]
    values = {"method": "kd", "teacher": str(small), "trainer": {"max_steps": 1}}
    for command in (("config", "check"), ("plan",)):
        code, _, err = kd(*command, write_config(tiny_teacher, rows, 64, **values))
        assert code == 2 and "tokenizer of the teacher" in err and "embeds only 300" in err, err


@pytest.mark.slow
def test_limits_apply_to_generation_and_held_out_rows(
    gpt2: Path, extra_token_model: Path, paths: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    engine = LocalEngine(str(extra_token_model), paths)
    chats = [({"role": "user", "content": text},) for text in ("<extra>", "fine")]
    replies = dict(engine.stream([GenerationRequest(chat, max_new_tokens=2) for chat in chats]))
    assert replies[0].finish is Finish.ERROR and "(id 400) is out of range" in replies[0].error
    assert replies[1].error == "" and replies[1].tokens > 0
    code, _, err = kd("eval", "--ckpt", str(gpt2), "--bench", "heldout", "--limit", "3")
    assert code in (1, 2), err
    assert "heldout.max_length is 1024" in err and "has only 64 positions" in err
    assert "Traceback" not in err and "IndexError" not in err
    code, _, err = kd("eval", "--ckpt", str(gpt2), "--bench", "shop", "--limit", "2")
    assert code == 0, err


def test_config_check_detects_a_broken_adapter(
    tiny_teacher: Path, tmp_path: Path, write_config: Callable[..., str], kd: CommandLine
) -> None:
    from support.adapters import make_adapter, rename

    adapter = make_adapter(tiny_teacher, tmp_path / "adapter")
    file = write_config(adapter, LONG, 64)
    assert kd("config", "check", file)[0] == 0
    rename(adapter, lambda key: key.replace(".model.model.", ".model._orig_mod.model."))
    code, _, err = kd("config", "check", file)
    assert code == 1 and "8 adapter tensors are missing" in err and "_orig_mod." in err


def test_config_check_reports_missing_models_and_data_as_not_checked(
    write_config: Callable[..., str], kd: CommandLine, tiny_teacher: Path
) -> None:
    code, out, err = kd("config", "check", write_config(Path("/nowhere/model"), LONG, 64))
    assert code == 0 and out.startswith("ok: sft config")
    assert "not checked: no model named '/nowhere/model'" in err
    file = write_config(tiny_teacher, LONG, 64, data={"train": "/nowhere/rows.jsonl"})
    code, out, err = kd("config", "check", file)
    assert code == 0 and "not checked: missing data file /nowhere/rows.jsonl" in err


def test_first_row_beyond_the_limit_is_named(tiny_teacher: Path) -> None:
    from kdharness.harness.models.limits import refuse_beyond

    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    rows = [("a", [1, 2]), ("b", [3, 399, 5]), ("c", [400])]
    limits = ModelLimits(400, None)
    with pytest.raises(DataError, match=r"^c: .*id 400"):
        refuse_beyond(rows, limits, tokenizer, "m", max_length=9)
    assert refuse_beyond(rows[:2], limits, tokenizer, "m", max_length=9) == 3


TINY: dict[str, tuple[dict[str, Any], int | None]] = {
    "gptj": ({"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32, "rotary_dim": 8}, 32),
    "codegen": ({"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32, "rotary_dim": 8}, 32),
    "mpt": ({"d_model": 32, "n_layers": 1, "n_heads": 4, "max_seq_len": 32}, 32),
    "opt": (
        {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": 32,
            "word_embed_proj_dim": 32,
        },
        32,
    ),
    # It rebuilds its position table for longer rows.
    "xglm": (
        {
            "d_model": 32,
            "num_layers": 1,
            "attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": 32,
        },
        None,
    ),
    "bloom": ({"hidden_size": 32, "n_layer": 1, "n_head": 4}, None),
}


@pytest.mark.parametrize("kind", TINY)
def test_detected_positions_match_what_the_model_accepts(kind: str, paths: Paths) -> None:
    """Position tables stored as buffers or created in the forward pass were missed before."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values, positions = TINY[kind]
    folder = paths.home / kind
    AutoConfig.for_model(kind, vocab_size=50, **values).save_pretrained(folder)
    assert limits_of(meta_model(str(folder), paths)).positions == positions
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()
    assert limits_of(model).positions == positions
    with torch.no_grad():
        model(torch.full((1, 32), 7), use_cache=False)
        if positions is None:
            model(torch.full((1, 40), 7), use_cache=False)
        else:
            with pytest.raises((IndexError, RuntimeError)):
                model(torch.full((1, 40), 7), use_cache=False)


def test_plan_for_a_model_that_cannot_be_built(
    tiny_teacher: Path, tmp_path: Path, write_config: Callable[..., str], kd: CommandLine
) -> None:
    folder = Path(shutil.copytree(tiny_teacher, tmp_path / "broken"))
    values = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**values, "pad_token_id": 9999}), "utf-8")
    code, _, err = kd("plan", write_config(folder, LONG[1:], 64))
    assert code == 1 and "could not load the model" in err and "Traceback" not in err
