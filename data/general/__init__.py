"""General prompts of our own and a small teacher's answers to them: the "replay" rows.

They stand for what a model can do before it is trained on a domain.
"""
