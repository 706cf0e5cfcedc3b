"""Small sound GGUF files."""

from __future__ import annotations

from pathlib import Path

import numpy


def write_gguf(path: Path, *, architecture: str = "llama") -> Path:
    """Write a GGUF file with one tensor and return its path."""
    from gguf import GGUFWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture)
    writer.add_tensor("token_embd.weight", numpy.ones((4, 32), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
