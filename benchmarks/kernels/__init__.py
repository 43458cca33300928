"""Operators by themselves: pytest-benchmark cases and the tables of their times."""
