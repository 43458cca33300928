"""micronet: prune, quantise, distil, evaluate and score image networks."""
