"""From a checkpoint to answers, from answers to judgments."""
