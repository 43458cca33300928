"""A compressed network as one file of packed codes, and the network that such a file holds.

``writer`` packs, ``reader`` unpacks onto the operators of the kernels; the page "The packed file"
is the format. ``exporting`` writes folders, of other programs' formats too. What is saved to be
trained on is the business of ``runs``.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = ["accounting", "engine", "exporting", "inspection", "reader", "writer"]
