"""Tokenizers for every family of chat templates."""

from __future__ import annotations

from typing import Any

import pytest

from support.chat_templates import FAMILIES, with_tokens
from support.models import make_tokenizer


@pytest.fixture(scope="session")
def plain_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a test tokenizer to which a family's template and tokens can be added."""
    return make_tokenizer(tmp_path_factory.mktemp("plain-tokenizer"))


@pytest.fixture(scope="session")
def families(plain_tokenizer: Any) -> dict[str, Any]:
    """Return a tokenizer for each family."""
    return {name: with_tokens(plain_tokenizer, template) for name, template in FAMILIES.items()}
