"""Blocks of a network on codes: convolution, normalization, activation, codes, without a float.

What lies between two convolutions is not computed when it is called but when it is known what
becomes of it; `LazyTensor` is the tensor that waits. Backward passes compute it once more.
"""
