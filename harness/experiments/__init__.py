"""Several runs from one file, and the claims they are held against."""
