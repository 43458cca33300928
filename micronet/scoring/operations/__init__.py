"""One walk of a network: what each dispatched operator does, as typed records."""

# The modules that other packages may use; the others are this one's own.
__all__ = ["operation_walk", "records"]
