"""Benchmarks: what the engine costs beside what users have; results in results/."""
