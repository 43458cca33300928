"""The package's own networks: small ones, for images of 32 pixels."""

# The modules that other packages may use; the others are this one's own.
__all__ = ["networks"]
