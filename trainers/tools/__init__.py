"""Commands other than training: self-check, measurements, cache building."""
