"""Exports of checkpoints to where models are served: GGUF files and complete folders."""
