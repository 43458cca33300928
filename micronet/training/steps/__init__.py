"""Steps that are handed to the device without waiting for it, and taken back where not sound.

An epoch takes them one by one or as a graph; what they gave is read some steps later.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = ["epoch"]
