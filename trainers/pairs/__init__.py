"""Whether a student, its teachers and its rows fit each other, before the first step."""
