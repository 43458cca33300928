"""The packed file itself: its bytes, what it may say, and its weights as codes and masks.

Nothing here computes with a network; the page "The packed file" says the same in words.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = ["container", "document", "layers", "nodes", "packing", "pixels", "tensors", "topology"]
