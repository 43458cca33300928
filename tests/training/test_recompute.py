"""Which convolutions make their integers again in the backward pass, as a recipe says."""

import gc

import torch

from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.recipe.schema import TrainSection
from micronet.training import loop
from micronet.training.plan import StepLocation, TrainingPlan
from micronet.training.steps import step


class Integers(torch.nn.Module):
    """A depthwise convolution of codes; notes how many integers are alive after it."""

    def __init__(self):
        super().__init__()
        self.depthwise = torch.nn.Conv2d(4, 4, 1, groups=4)
        quantize.convert_(self, {"depthwise": quantize.LayerBits(4, 4)})
        self.alive = []

    def forward(self, x):
        y = self.depthwise(x).mean((2, 3))
        found = (t for t in gc.get_objects() if type(t) is torch.Tensor)
        self.alive.append(sum(t.dtype == torch.int16 for t in found))
        return y


def test_a_recipe_says_which_integers_are_made_again():
    images, labels = torch.randn(2, 4, 3, 3), torch.tensor([0, 3])
    alive, gradients = [], []
    for recompute in ("none", "depthwise"):
        torch.manual_seed(0)
        model, plan = Integers(), TrainingPlan("qat", TrainSection(recompute=recompute))
        state = loop.start(model, plan, prune.Masks())
        batch = step.Batch(images, labels, labels)
        where = StepLocation("qat", 0, 0, "")
        step.backward(state, model, plan, batch, None, where)
        gradients.append(model.depthwise.weight.grad.clone())
        alive += model.alive
    assert torch.equal(*gradients) and alive[0] == alive[1] + 1
