"""Predictions and labels in, numbers out: NumPy and pandas alone."""
