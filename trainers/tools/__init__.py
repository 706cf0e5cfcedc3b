"""Commands beside training: self-check, measurements."""
