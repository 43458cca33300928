"""Where the taps of a convolution read, for kernels over codes and over floats."""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ...operands import CodesConvolution, FloatConvolution


class Geometry(NamedTuple):
    """The numbers of a convolution that its kernels take, in one operand."""

    pixels: int  # of all outputs
    height: int  # of an input, as the two below
    width: int
    channels: int
    out_height: int
    out_width: int
    kernel_height: int
    kernel_width: int
    stride_y: int
    stride_x: int
    top: int
    left: int
    dilation_y: int
    dilation_x: int
    groups: int
    outputs: int  # channels

    @classmethod
    def of(cls, conv: CodesConvolution | FloatConvolution) -> "Geometry":
        _, channels, height, width = conv.shape.input_size
        images, outputs, *out_size = conv.shape.output_size
        sizes = (images * out_size[0] * out_size[1], height, width, channels, *out_size)
        taps = (*conv.w.shape[2:], *conv.stride, *conv.padding[:2], *conv.dilation)
        return cls(*sizes, *taps, conv.groups, outputs)

    def images(self, out: Tensor) -> Tensor:
        """An output [pixels, O] as images [N, O, H', W'], channels last."""
        return out.view(-1, self.out_height, self.out_width, self.outputs).permute(0, 3, 1, 2)


@triton.jit
def corner_of(pixel, g) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Image, row and column of the first tap of output pixels."""
    x = pixel % g.out_width
    y = pixel // g.out_width % g.out_height
    image = pixel // (g.out_width * g.out_height)
    return image, y * g.stride_y - g.top, x * g.stride_x - g.left


@triton.jit
def tap_of(pixel, corner, tap, g) -> tuple[tl.tensor, tl.tensor]:
    """The input pixels that a tap of output pixels reads, and whether they are inside."""
    image, first_y, first_x = corner
    y = first_y + tap // g.kernel_width * g.dilation_y
    x = first_x + tap % g.kernel_width * g.dilation_x
    inside = (y >= 0) & (y < g.height) & (x >= 0) & (x < g.width) & (pixel < g.pixels)
    return (image * g.height + y) * g.width + x, inside
