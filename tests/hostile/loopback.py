"""The judges' loopback server, for tests of this folder."""

from tests.judges.loopback import Loopback, completion

__all__ = ["Loopback", "completion"]
