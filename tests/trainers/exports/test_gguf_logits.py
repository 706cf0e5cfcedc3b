"""What llama.cpp computes from an exported file, where llama-cpp-python is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdharness.harness.models.loading import load_model, load_tokenizer
from kdharness.harness.paths import find_paths
from kdharness.trainers.exports.export import export_gguf
from support.exports import Exported
from support.pulled_assets import pull_or_skip

llama_cpp = pytest.importorskip("llama_cpp", reason="needs kdharness[llama]")
pytestmark = [pytest.mark.slow, pytest.mark.model]
MODEL = "smollm2-135m-instruct"
TEXT = "In 1492 the shop on the corner sold out of lamps, three kettles and a bicycle before noon. "


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_llama_cpp_gives_our_logits_for_the_weights_of_the_file(kind: str, tmp_path: Path) -> None:
    """To 1e-4; its own cache of keys and values in f16 adds 0.04, as does rounding to f16."""
    paths = find_paths(tmp_path / "home")
    pull_or_skip(paths, MODEL)
    export_gguf(MODEL, str(tmp_path / "out"), paths, kind=kind)
    ids = load_tokenizer(MODEL, paths)(TEXT * 6)["input_ids"][:128]
    model = load_model(MODEL, paths, device="cpu")
    with torch.no_grad():
        plain = model(torch.tensor([ids])).logits[0].numpy()
        if kind == "f16":
            for weight in model.parameters():
                weight.copy_(weight.half().float())
        ours = model(torch.tensor([ids])).logits[0].numpy()
    theirs = {}
    for name in ("F32", "F16"):
        cache = getattr(llama_cpp, f"GGML_TYPE_{name}")
        options = {"n_ctx": 256, "n_batch": 256, "logits_all": True, "verbose": False}
        reader = llama_cpp.Llama(
            str(Exported(tmp_path / "out").path), type_k=cache, type_v=cache, **options
        )
        reader.eval(ids)
        theirs[name] = np.array(reader.scores[: len(ids)])
        reader.close()
    assert np.ptp(ours) > 50
    assert np.abs(theirs["F32"] - ours).max() < 1e-3
    assert np.abs(theirs["F16"] - plain).max() < 0.1
    assert (theirs["F16"].argmax(-1) == plain.argmax(-1)).all()
