"""A network's storage and operations, counted exactly under a rule set, and shown.

``operations`` walks a network, ``network`` says what is stored, ``rules`` bill both, ``search``
asks what another precision or sparsity would give.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = ["comparison", "count", "tables", "text", "waterfall"]
