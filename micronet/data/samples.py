"""One image of a folder as training or evaluation sees it, made by a loader's workers."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from micronet.data.augmentation import Policy, changed
from micronet.data.collation import Broken, Encoded
from micronet.data.image_files import decode_pixels, whole_jpeg
from micronet.data.preprocessing import Preprocessing
from micronet.data.seeds import generator
from micronet.data.windows import drawn
from micronet.utils.errors import UserError

# Torch's antialiased resize on a device holds the weights of a row and a column of pixels in 48 KiB
# of shared memory, which end at a reduction by 94.
_MOST_REDUCTION = 64


class Files(Dataset[Tensor | Broken | Encoded]):
    """Images as uint8 (size, size, 3): channels last is how files hold them, and what is fast.

    Args:
        files: paths.
        size: side in pixels.
        augment: (seed, epoch), or None for the center.
        policy: changes each augmented image, where given.
        preprocessing: what the network wants of them.
        encoded: leave JPEG files to a device, with the part that is drawn of them.
    """

    def __init__(
        self,
        files: Sequence[str],
        size: int,
        augment: tuple[int, int] | None,
        policy: Policy | None = None,
        preprocessing: Preprocessing = Preprocessing(),  # noqa: B008, it is frozen
        *,
        encoded: bool = False,
    ) -> None:
        self.files, self.size, self.augment, self.policy = files, size, augment, policy
        self.encoded = encoded
        self.interpolation, self.center = preprocessing.interpolation, preprocessing.center(size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor | Broken | Encoded:
        encoded = self._encoded(index, *self.augment) if self.encoded and self.augment else None
        return self.read(index) if encoded is None else encoded

    def read(self, index: int) -> Tensor | Broken:
        """Return an image decoded on the CPU, or why it cannot be."""
        try:
            pixels = decode_pixels(self.files[index])
        except UserError as error:
            return Broken(str(error))
        if self.augment is None:
            return self.center(Image.fromarray(pixels.numpy())).permute(1, 2, 0)
        window = drawn(pixels.shape[0], pixels.shape[1], generator(*self.augment, 2, index))
        rows = window.of(pixels.permute(2, 0, 1), self.size, self.interpolation)
        return rows if self.policy is None else changed(self.policy, rows, *self.augment, index)

    def _encoded(self, index: int, seed: int, epoch: int) -> Encoded | None:
        """Return an image for the device, or None where the CPU is to decode it."""
        jpeg = whole_jpeg(self.files[index])
        if jpeg is None:
            return None
        window = drawn(jpeg.height, jpeg.width, generator(seed, epoch, 2, index))
        if max(window.height, window.width) > _MOST_REDUCTION * self.size:
            return None
        return Encoded(jpeg.content, window)
