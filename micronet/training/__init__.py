"""The loop and all that it needs: step, optimizer, distillation, evaluation, checkpoints.

Takes a plan, a recipe held to one network; what users type is read in ``cli``.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = [
    "checkpoint_saver",
    "distillation",
    "evaluation",
    "loop",
    "network_trial",
    "optimizer",
    "plan",
    "sensitivity",
    "signals",
    "state",
    "tensorboard",
    "trial",
]
