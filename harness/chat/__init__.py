"""Chats as tokens: templates, spans of assistant text, tokens that end an answer."""
