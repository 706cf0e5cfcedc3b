"""One document from a home: HTML, Markdown, model cards."""
