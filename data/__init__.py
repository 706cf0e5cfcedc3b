"""Data that ships with the project, each folder with the script that made it.

Nothing here is taken from a benchmark: rows a model is trained on must not be rows it is
judged by.
"""
