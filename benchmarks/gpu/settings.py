"""What a run of the command wants, passed on to each stage as one JSON text."""

import json
import math
import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Settings:
    """The same for all stages, but for their end."""

    device: str  # cpu or cuda
    quick: bool  # tiny shapes, and nothing is compiled
    scratch: str  # a folder for what a stage leaves behind; not among the results
    images: str = ""  # a folder or tar of images; made images where empty
    cifar10: str = ""  # a folder with train/ and val/, or a tar of one
    # When the stage is killed, in time.monotonic(), which all processes of a machine share.
    ends: float = math.inf

    def left(self) -> float:
        """Return the seconds until the stage is killed."""
        return self.ends - time.monotonic()

    def as_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Read the text of `as_json`."""
        return cls(**json.loads(text))
