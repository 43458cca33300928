"""What runs did and cost, as one HTML page or pictures."""

# The modules that other packages may use; the others are this one's own.
__all__ = ["facts", "page", "png"]
