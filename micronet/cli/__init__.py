"""What the commands share and do: options, errors, tables, and the parts that only they need."""

# The modules that other packages may use; the others are this one's own.
__all__ = ["options", "pipeline", "score_arguments", "train_arguments", "train_main"]
