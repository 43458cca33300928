"""A network's evaluation as a list of steps: what layers and torch's functions did to an image.

What a step becomes in a file is the business of ``artifact.writer``.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = ["recorder", "steps"]
