"""One file per training method, and merging."""
