"""What every package may use: the user's error, several processes, results that are read
later, numbers as text, progress.

Knows nothing of what networks are made of. Nothing here imports another package of micronet.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = [
    "deferred",
    "distributed",
    "errors",
    "function_watch",
    "lazy_modules",
    "modes",
    "number_format",
    "progress",
    "unsaved_buffers",
]
