"""Packages whose public names are imported on first use."""

from __future__ import annotations

import ast
import importlib
import inspect

import pytest

PACKAGES = [
    "kdharness.harness",
    "kdharness.harness.config",
    "kdharness.harness.store",
    "kdharness.judges",
    "kdharness.trainers",
    "kdharness.tui.screens",
]


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_exactly_the_public_names(package: str) -> None:
    module = importlib.import_module(package)
    tree = ast.parse(inspect.getsource(module))
    tests = {ast.unparse(node.test): node for node in tree.body if isinstance(node, ast.If)}
    # A `__getattr__` that a type checker sees makes every misspelt import valid.
    assert "__getattr__" in ast.unparse(tests["not TYPE_CHECKING"])
    assert not [
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__getattr__"
    ]
    declared = {
        alias.asname or alias.name
        for node in ast.walk(tests["TYPE_CHECKING"])
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == set(module.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name
