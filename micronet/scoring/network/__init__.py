"""What is scored: a network's layers, their zeros, bits, encodings and accumulators."""

# The modules that other packages may use; the others are this one's own.
__all__ = ["accumulators", "encodings", "layer_facts", "plan_files", "scored_network"]
