"""Chats as tokens: templates, which characters the assistant writes, what ends an answer."""
