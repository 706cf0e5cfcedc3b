"""Evaluation: from a checkpoint to answers, and from answers to judgments."""
