"""Distiller's schedule files, read as they are and converted to recipes of ours."""

# The modules that other packages may use; the others are this one's own.
__all__ = ["schedules"]
