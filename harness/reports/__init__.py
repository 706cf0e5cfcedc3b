"""Documents about a home: HTML and Markdown reports, model cards."""
