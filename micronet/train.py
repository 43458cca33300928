"""``python -m micronet.train fit|prune|qat|eval|schedule|summary|sensitivity``."""

from __future__ import annotations

import sys

from micronet.cli.train_main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
