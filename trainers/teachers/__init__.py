"""Sources of a teacher's targets: a local model, a cache, a server."""
