"""The walk's records of interpolations: of how many elements each element between them is a sum."""

from __future__ import annotations

from typing import Any

# By the dispatched operator. The nearest element is a move, and free.
_TAPS = {
    "upsample_linear1d": 2,
    "upsample_bilinear2d": 4,
    "upsample_trilinear3d": 8,
    "upsample_bicubic2d": 16,
}
# Against aliasing, which is the same where no side shrinks; where one does, more are summed.
_SMOOTH = {"_upsample_bilinear2d_aa": 4, "_upsample_bicubic2d_aa": 16}
_ALIGN = "torchvision::roi_align"
INTERPOLATIONS = frozenset([*_TAPS, *_SMOOTH, _ALIGN])


def taps(operator: str, args: dict[str, Any]) -> int | None:
    """Return the elements that each element of a result is a weighted sum of.

    A crop of a box is the mean of ``sampling_ratio`` points squared, each between four elements.

    Args:
        operator: one of ``INTERPOLATIONS``.
        args: the operator's arguments by name.

    Returns:
        None where the boxes decide it, or an image is made smaller without aliasing.
    """
    if operator in _SMOOTH:
        sides = zip(args["self"].shape[2:], args["output_size"], strict=True)
        return None if any(after < before for before, after in sides) else _SMOOTH[operator]
    if operator != _ALIGN:
        return _TAPS[operator]
    points = int(args["sampling_ratio"])
    return 4 * points**2 if points > 0 else None
