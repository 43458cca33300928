"""Which weights become zero and when: sparsity schedules, patterns and masks."""

# The modules that other packages may use; the others are this one's own.
__all__ = ["patterns", "prune"]
