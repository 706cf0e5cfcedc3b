"""Where a teacher's targets come from: a model here, a cache, a server."""
