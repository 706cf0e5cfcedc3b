"""How answers get verdicts: one file per benchmark, one client, one local engine."""
