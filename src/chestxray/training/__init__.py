"""A recipe and a dataset in, a run out."""
