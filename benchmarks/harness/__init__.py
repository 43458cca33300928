"""What all benchmarks share: interleaved timing, baselines, machine, shapes, tables."""
