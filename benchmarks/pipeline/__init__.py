"""Whole runs: accuracy after each stage, input, score, and the picture of results."""
