"""From files to batches: sources, rows, labels, batches."""
