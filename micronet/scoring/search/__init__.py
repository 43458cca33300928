"""Plans changed and compared: what if, and a search for bits and sparsity."""

# The modules that other packages may use; the others are this one's own.
__all__ = ["proposal", "what_if"]
