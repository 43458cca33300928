"""What a command or a name of the library loads: little, as users wait for it."""

import ast
import importlib
import subprocess
import sys

import pytest

import micronet
from paths import ROOT


def printed(code):
    """The lines that a process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_library_names_what_it_exports_once():
    tree = ast.parse((ROOT / "micronet" / "__init__.py").read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in typed.body for alias in node.names}
    assert list(seen) and sorted(seen) == sorted(micronet.__all__)
    # Once the command is imported, its module has the name of the function.
    for name, home in seen.items() - {(name, seen[name]) for name in ("export", "score")}:
        assert getattr(micronet, name) is getattr(importlib.import_module(home), name), name


# Each of these takes about as long to import as torch does.
STARTED = """
import sys, micronet
micronet.UserError
print("torch" in sys.modules)
micronet.score
micronet.export
import micronet.score, micronet.export, micronet.train, micronet.report, micronet.demo
import micronet.cli.train_main
for call in (lambda: micronet.score(None, 1), lambda: micronet.export(None, ".", image_size=1)):
    try:
        call()
    except Exception as error:
        print(error)

from micronet.compression.compression import Compression
from micronet.compression.plan import CompressionPlan
from micronet.models.meta_device import meta_device
from micronet.recipe.schema import TrainSection
from micronet.scoring.operations import detectors
from micronet.training.optimizer import make_optimizer

data = micronet.open_data("digits", image_size=32, batch_size=8, seed=0)
images, labels = next(iter(data.train(0)))
model = micronet.create_model("efficientnet-micro", num_classes=10)
detectors.forward_of(model)
with meta_device():
    micronet.create_model("resnet20", num_classes=10)
section = TrainSection()
optimizer = make_optimizer(Compression(model, CompressionPlan(), section), section)
optimizer.zero_grad()
model(images).sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
slow = {"torchvision", "torch._dynamo", "sympy", "sklearn", "scipy", "onnx", "timm"}
print(sorted(slow & {*sys.modules}))
"""


@pytest.fixture(scope="module")
def started():
    return printed(STARTED)


def test_a_name_without_torch_needs_no_torch(started):
    assert started[0] == "False"


def test_functions_with_the_names_of_modules_stay_functions_once_those_are_imported(started):
    assert "takes a torch network, not NoneType" in started[1]
    assert "export takes a torch network, not NoneType" in started[2]


def test_commands_and_training_start_without_what_they_need_not(started):
    assert started[3:] == ["[]"]
