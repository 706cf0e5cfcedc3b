"""IFEval's instructions: checked by programs, as pure functions of an answer's text."""
