"""On-policy rows: which rows the student answers, how, what is kept of it, and when to stop."""
