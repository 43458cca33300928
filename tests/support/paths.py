"""Where things are that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
# Image folders beside the checkout, for tests marked `data`.
IMAGES = ROOT.parent / "shared" / "data"
