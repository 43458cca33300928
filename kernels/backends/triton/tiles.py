"""Tiles, warps and stages: what the kernels are launched with. No device has measured them yet."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Tile:
    """A tile of a convolution: output pixels, output channels, and products at a time."""

    pixels: int
    channels: int
    depth: int = 32
    warps: int = 4
    stages: int = 3

    @property
    def launch(self) -> dict[str, int]:
        """Triton's own options."""
        return {"num_warps": self.warps, "num_stages": self.stages}

    def as_dict(self) -> dict[str, int]:
        """The numbers by name, as they stand in a file."""
        return asdict(self)


# What a shape may run with. The first is taken where nothing can be timed; the result is the same
# integers with each.
PRODUCT_TILES = (
    Tile(64, 64),
    Tile(128, 32, depth=64),
    Tile(128, 64, depth=64, warps=8),
    Tile(64, 32, depth=64),
    Tile(128, 128, depth=64, warps=8),
)
DEPTHWISE_TILES = (Tile(16, 64), Tile(32, 64), Tile(32, 128, warps=8), Tile(64, 32), Tile(8, 256))

# Warps of the kernels whose tiles are of 2048 elements or more, eight elements a thread or sixteen.
# All of them find extremes or count, so that no order of a sum depends on the warps.
WARPS = {
    "extremes_kernel": 8,
    "histogram_kernel": 8,
    "count_equal_kernel": 8,
    "keep_kernel": 8,
}
