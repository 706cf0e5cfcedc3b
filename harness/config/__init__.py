"""What a user may write: run configs, evaluation settings, engine specs, the settings file."""
