"""One file per benchmark: items, judge calls, how replies are read."""
