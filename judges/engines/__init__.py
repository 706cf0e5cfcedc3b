"""Engines that answer: OpenAI-compatible endpoints and local models."""
