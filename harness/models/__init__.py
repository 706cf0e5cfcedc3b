"""Models: resolving names, checking folders, identifying content, loading weights."""
