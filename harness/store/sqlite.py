"""sqlite-utils without numpy and pandas.

It imports both if they are installed, only for their number types: half a second at the start of
every command and of the app, for types that never reach the store.
"""

from __future__ import annotations

import sys

_UNWANTED = [name for name in ("numpy", "pandas") if name not in sys.modules]
# A None here makes the import fail like a missing package, which sqlite-utils handles.
sys.modules.update(dict.fromkeys(_UNWANTED))  # type: ignore[arg-type]
try:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations
finally:
    for _name in _UNWANTED:
        sys.modules.pop(_name, None)

__all__ = ["Database", "Migrations"]
