"""Packed files as graphs of other programs: ONNX and QONNX. Needs the package ``onnx``.

The page "Other formats" says what each keeps. State dicts, which need no graph, are made next door.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = ["onnx_model"]
