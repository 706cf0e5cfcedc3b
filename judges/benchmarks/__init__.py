"""One file per benchmark: items, judge calls, parsing of replies."""
