"""What answers: OpenAI-compatible endpoints and local models."""
