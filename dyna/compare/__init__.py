"""Comparisons: a grid of runs, its figures, and a report that a reviewer can check."""
