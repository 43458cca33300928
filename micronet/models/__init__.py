"""Networks by name or of a user's own, their layers, and weights out of foreign files.

Knows nothing of pruning or of few bits.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = [
    "architectures",
    "custom",
    "failures",
    "meta_device",
    "plain_swish",
    "replacement",
    "shared_layers",
    "shared_tensors",
    "timm_networks",
    "unchanged",
    "weights",
]
