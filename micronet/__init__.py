"""micronet: prune, quantize, distil, evaluate and score image networks."""
