"""What a network becomes while a loop trains it: masks, quantized layers, averages, distillation.

``Compression`` holds it all for one network; the loop itself, ours or a user's, is not here.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = [
    "calibration",
    "compress",
    "compression",
    "distillation",
    "ema",
    "epoch_facts",
    "features",
    "one_shot",
    "parameters",
    "plan",
    "reestimation",
    "report",
]
