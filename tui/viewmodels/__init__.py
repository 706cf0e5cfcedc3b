"""The data that screens show, without Textual."""
