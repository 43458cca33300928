"""Compressed networks in the files of other programs: ONNX, QONNX, and a plain state dict.

The graphs are made of a packed file, the state dict of the network itself; the page "Other formats"
says what each keeps. Only ``onnx_model`` and what it is made of need the package ``onnx``.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = ["onnx_model", "state_dict"]
