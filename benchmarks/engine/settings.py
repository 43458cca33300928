"""What is measured: networks, engines, threads and batches, and where their files lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Of this module and those that run in the peers' environment, nothing imports torch.
ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "engine"
PEERS_PYTHON = ROOT / "build" / "peers" / "bin" / "python"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")

B1 = "efficientnet-b1"


@dataclass(frozen=True)
class Network:
    """A network, the side of its images, and the bits of weights and inputs that ours has."""

    name: str
    side: int
    classes: int
    forms: tuple[str, ...]


NETWORKS = {
    network.name: network
    for network in (
        Network(B1, 224, 1000, ("4/4",)),
        Network("mobilenet_v2", 224, 1000, ("4/4", "8/8")),
        Network("resnet18", 224, 1000, ("4/4", "8/8")),
        # For a short run; it is in no table.
        Network("resnet20", 32, 10, ("4/4",)),
    )
}
IN_TABLE = (B1, "mobilenet_v2", "resnet18")


@dataclass(frozen=True)
class Setting:
    """How a network is run."""

    network: str
    threads: int
    batch: int


# Threads and images.
SHAPES = ((1, 1), (2, 8))

OURS = "micronet"
LITERT, OPENVINO, ONNXRUNTIME = "litert", "openvino", "onnxruntime"
# What is installed apart, and the package whose version says what it is.
PEERS = {LITERT: "ai-edge-litert", OPENVINO: "openvino", ONNXRUNTIME: "onnxruntime"}
TORCH, CHANNELS_LAST, COMPILED = "torch", "torch-channels-last", "torch-compiled"
TORCHES = (TORCH, CHANNELS_LAST, COMPILED)
ENGINES = (OURS, *PEERS, *TORCHES)


@dataclass(frozen=True)
class Job:
    """One engine with one network: what a worker loads and runs."""

    engine: str
    setting: Setting
    bits: str  # of weights and inputs; "32" is float32
    folder: str  # of the files of `networks` and `peers.make`

    @property
    def label(self) -> str:
        """What tells it from the others of its setting."""
        return f"{self.engine} {self.bits}"


def jobs(setting: Setting, engines: tuple[str, ...], folder: Path) -> list[Job]:
    """Return what takes turns in a setting: ours in all forms, then the others."""
    found = []
    for engine in ENGINES:
        if engine in engines:
            ours = NETWORKS[setting.network].forms
            forms = ours if engine == OURS else ("8",) if engine in PEERS else ("32",)
            found += [Job(engine, setting, bits, str(folder)) for bits in forms]
    return found


def packed(folder: Path, network: str, bits: str) -> Path:
    """Return the folder of a packed network of ours."""
    return folder / "packed" / f"{network}-{bits.replace('/', '-')}"


def float_model(folder: Path, network: str) -> Path:
    """Return the ONNX file of a network in float32, of any number of images."""
    return folder / "models" / f"{network}.onnx"


def peer_model(folder: Path, engine: str, setting: Setting) -> Path:
    """Return a peer's int8 model; LiteRT has one for each number of images."""
    names = {
        LITERT: f"{setting.network}-{setting.batch}.tflite",
        OPENVINO: f"{setting.network}.int8.xml",
        ONNXRUNTIME: f"{setting.network}.int8.onnx",
    }
    return folder / "models" / names[engine]


def peer_note(folder: Path, engine: str, network: str) -> Path:
    """Return the file that says of what state a peer's model is, or why there is none."""
    return folder / "models" / f"{network}.{engine}.json"
