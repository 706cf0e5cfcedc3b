"""Data that ships with the project, each folder with the script that made it.

Nothing here is taken from a benchmark: a model must not be trained on rows it is evaluated on.
"""
