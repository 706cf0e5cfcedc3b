"""General prompts written for kdharness and a small teacher's answers: the "replay" rows.

They represent a model's general abilities before it is trained on a domain.
"""
