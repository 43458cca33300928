"""Layers that compute in a few bits: their precision, quantizers, conversion and report.

Arithmetic is in the package ``micronet_kernels``; here are the modules that call it.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = [
    "conversion",
    "deterministic_layers",
    "faults",
    "images",
    "layers",
    "plain_weights",
    "precision",
    "precision_change",
    "quantize",
    "quantizers",
    "shared_weights",
    "sync_batch_norm",
    "weight_uses",
]
