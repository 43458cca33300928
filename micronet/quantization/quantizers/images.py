"""The quantizer of images that are normalized grey values, whose levels are known beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

import micronet_kernels as kernels
from micronet.quantization.quantizers.inputs import InputQuantizer

# A byte for each channel of a pixel.
GREY_BITS, GREY_LEVELS = 8, 256
_WHITE = GREY_LEVELS - 1.0


class ImageQuantizer(InputQuantizer):
    """Rounds normalized images to the grey values 0 to 255 that they were made from.

    A grey value is ``p = rint(x * 255 std + 255 mean)``, of each channel, held to 0 and 255; that
    is two roundings before ``rint``. The integers that a layer sums are these; what they stand for
    is ``p / S``, with one S for all channels, 255 times the largest of their deviations: what sets
    the channels apart, means and smaller deviations, is the layer's to fold into its weights and
    its bias. Nothing is learned or followed. The gradient to x is 1 where the nearest whole number
    is a grey value, else 0, times the deviation over the largest.
    """

    mean: Tensor
    deviation: Tensor
    moments: tuple[tuple[float, ...], tuple[float, ...]]
    factors: Tensor
    range: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Make a quantizer of images with such a normalization.

        Args:
            mean: of each channel of pixels in [0, 1].
            std: their standard deviations.
        """
        super().__init__(GREY_LEVELS)
        self.moments = tuple(mean), tuple(std)
        # In grey values, rounded as ``data.batches`` rounds them.
        for name, row in (("mean", mean), ("deviation", std)):
            values = _WHITE * torch.tensor(row, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)
        # By which weights of each channel [C] are multiplied.
        factors = torch.tensor(std, dtype=torch.float32)
        self.register_buffer("factors", factors.amax() / factors, persistent=False)
        ends = torch.stack([torch.zeros_like(self.largest), _WHITE / self.largest])
        self.register_buffer("range", ends, persistent=False)

    @property
    def largest(self) -> Tensor:
        """The largest deviation in grey values, a scalar."""
        return self.deviation.amax()

    def forward(self, x: Tensor) -> Tensor:
        """Return the values ``p / S`` of images ``x`` (..., channels, height, width)."""
        return kernels.fake_quant_per_tensor(self._rounded(x), self.range, self.levels)

    def codes(self, x: Tensor, features: int) -> kernels.QuantizedInput | None:
        """Return the codes of images, which are their grey values; see ``InputQuantizer.codes``."""
        rounded = self._rounded(x)
        if self.training:
            # A range that is NaN makes every value NaN, without waiting for the device.
            ends = self.range + kernels.extremes(rounded).sum() * 0.0
            return kernels.quantize_input(rounded, ends, self.levels)
        if not kernels.is_finite(rounded):
            return None
        return kernels.quantize_input(rounded, self.range, self.levels)

    def _rounded(self, x: Tensor) -> Tensor:
        """Return whole grey values, in the unit of the range, as yet held to nothing.

        White is the end of the range to the bit, so that it lies inside.
        """
        grey = x.float() * self.deviation
        if kernels.is_eager(x) and not grey.requires_grad:
            return grey.add_(self.mean).round_().div_(_WHITE).mul_(self.range[1])
        grey = grey + self.mean
        # The difference and the sum are exact, and the gradient is that of ``grey``.
        grey = grey + (torch.round(grey) - grey).detach()
        return grey / _WHITE * self.range[1]

    @property
    def scale(self) -> Tensor:
        """The scale S of values ``p / S``."""
        return kernels.scale_of_range(self.range, self.levels)

    def ends(self) -> tuple[float, float]:
        """Return the normalized value of the darkest black and of the brightest white."""
        black = (-self.mean / self.deviation).amin()
        return float(black), float(((_WHITE - self.mean) / self.deviation).amax())

    def border(self) -> Tensor:
        """Return the grey value of each channel [C] that stands around images: that of 0."""
        codes = self(torch.zeros_like(self.mean)) * self.scale
        return torch.round(codes).flatten()

    def is_ready(self) -> bool:
        """Return that nothing is to be set."""
        return True

    def start_from(self, low: float, high: float, batches: int) -> None:
        """Leave the levels as they are: no batch knows them better."""

    def extra_repr(self) -> str:
        return f"levels={self.levels}, channels={len(self.mean)}"


@lru_cache
def moments_problem(mean: tuple[float, ...], std: tuple[float, ...]) -> str | None:
    """Return why images of such a normalization have no 256 grey values; None where they have.

    All 256 of every channel are normalized and rounded again, so that nothing is to be believed.
    """
    if len(mean) != len(std) or not mean:
        return f"{len(mean)} means and {len(std)} deviations are not those of the same channels"
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        return "a mean must be finite, and a deviation finite and above 0"
    with torch.device("cpu"):
        quantizer = ImageQuantizer(mean, std).eval()
        grey = torch.arange(float(GREY_LEVELS)).expand(len(mean), 1, -1)
        images = (grey - quantizer.mean) / quantizer.deviation
        found = quantizer(images) * quantizer.scale
    if torch.equal(torch.round(found), grey):
        return None
    return f"float32 does not tell 256 grey values apart under mean {mean} and std {std}"
