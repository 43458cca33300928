"""Differential fuzz of lazy tensors: what users do with a layer's output, against plain PyTorch.

A network is a state (how the tensor came about), an action (what a user's code does with it) and a
tail (what reads it afterwards). It runs converted, and with each quantized layer replaced by its
specification in float64. Outputs, what hooks saw, buffers, and gradients of the input and of every
parameter have to agree.

    python tests/support/fuzz_lazy.py --count 20000 --seed 1
"""

import argparse
import collections
import copy
import random
from dataclasses import dataclass, field

import torch
from torch import nn

from lazy_actions import ACTIONS, HIDDEN_WRITES, OF_THE_HOST
from lazy_networks import CHANNELS, STATES, TAILS, State, Tail
from lazy_specification import (
    DECAY,
    Doubts,
    KinksOfFunctions,
    RangeOfInput,
    SigmoidOfInput,
    SpecifiedConv2d,
    StepOfInput,
)
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.precision import LayerBits

SIDE, BATCH = 5, 2

MODES = ("grad", "grad", "grad", "no_grad", "inference")
PRECISIONS = ((16, 16), (16, 16), (5, 16), (256, 256), (None, None), (None, 16), (16, None))
# How operands are rounded: the step of the input, that of the weights, whether they are symmetric.
STEPS = (
    ("range", "range", False),
    ("range", "range", False),
    ("range", "range", True),
    ("learned", "range", False),
    ("range", "learned", False),
    ("learned", "learned", False),
    ("offset", "learned", False),
)


@dataclass(frozen=True)
class Case:
    """One combination; everything else follows from its seed."""

    state: str
    action: str
    tail: str
    mode: str
    training: bool
    moves: bool
    channels_last: bool
    precision: tuple[int | None, int | None]
    steps: tuple[str, str, bool]
    seed: int


class Net(nn.Module):
    """A state, an action and a tail; `seen` is what the action noted."""

    def __init__(self, case):
        super().__init__()
        self.state, self.tail = State(case.state), Tail(case.tail)
        self.case = case

    def forward(self, x, seen):
        return self.tail(ACTIONS[self.case.action](self.state(x), seen))


@dataclass
class Outcome:
    """What a run leaves: named tensors, or the error that it ended in."""

    tensors: dict = field(default_factory=dict)
    error: str = ""


def draw_case(rng):
    """Draw one combination."""
    return Case(
        rng.choice(STATES),
        rng.choice(list(ACTIONS)),
        rng.choice(TAILS),
        rng.choice(MODES),
        rng.random() < 0.6,
        rng.random() < 0.4,
        rng.random() < 0.6,
        rng.choice(PRECISIONS),
        rng.choice(STEPS),
        rng.randrange(2**31),
    )


def networks(case, doubts):
    """The converted network, the specified one in float64, and an input in float32."""
    torch.manual_seed(case.seed)
    net = Net(case)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias)
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    x = torch.randn(BATCH, CHANNELS, SIDE, SIDE)
    if case.channels_last:
        net, x = (
            net.to(memory_format=torch.channels_last),
            x.contiguous(memory_format=torch.channels_last),
        )
    specified = copy.deepcopy(net).double()
    quantize.convert_(net, dict.fromkeys(architectures.layers(net), _bits(case)))
    for name in ("state.conv", "state.other", "tail.conv"):
        layer, source = net.get_submodule(name), specified.get_submodule(name)
        specified.set_submodule(name, _specified(case, layer, source, doubts).double())
    return net.train(case.training), specified.train(case.training), x


def _bits(case):
    levels, weight_levels = (
        None if n is None else {5: 2.4, 16: 4, 256: 8}[n] for n in case.precision
    )
    of_input, of_weights, symmetric = case.steps
    return LayerBits(
        weight_levels,
        levels,
        DECAY,
        of_weights,
        "range" if of_input == "range" else "learned",
        symmetric,
        of_input == "offset",
    )


def _specified(case, layer, source, doubts):
    """The specification of a converted layer, which is given a range or a step of its input."""
    levels, weight_levels = case.precision
    quantizer = layer.input_quantizer if levels else None
    own = None
    if quantizer is not None and case.steps[0] == "range":
        ends = torch.cat([-1.0 - torch.rand(1), 1.0 + torch.rand(1)])
        _give_range(quantizer, ends, case.moves)
        own = RangeOfInput(levels, ends, case.moves, doubts)
    elif quantizer is not None:
        zero = torch.tensor(-float(random.Random(case.seed).choice((0, levels // 3))))
        _give_step(quantizer, zero, (2.0 + torch.rand(1)) / levels)
        own = StepOfInput(levels, quantizer.step_size.detach(), zero, quantizer.offset, doubts)
    step = layer.weight_step.detach() if weight_levels and layer.weight_step is not None else None
    return SpecifiedConv2d(source, own, weight_levels, step, case.steps[2], doubts)


@torch.no_grad()
def _give_step(quantizer, zero, step):
    quantizer.zero_point.fill_(zero)
    quantizer.read_zero_point()
    quantizer.step_size.copy_(step)
    if quantizer.offset is not None:
        quantizer.offset.copy_(step * (zero - 0.3 * torch.rand(1)))


def _give_range(quantizer, ends, moves):
    quantizer.range.copy_(ends)
    quantizer.ema.copy_((ends.double() * (1 - DECAY**4)).float())
    quantizer.step.fill_(4)
    if not moves:
        # As a user freezes a range; train() of the network must not thaw it.
        quantizer.train = lambda mode=True: quantizer
        quantizer.eval = lambda: quantizer
        quantizer.training = False


def run(net, x, case, device="cpu"):
    """Run a network there as the case says, backward too where there is a gradient."""
    outcome, seen = Outcome(), []
    net, x = net.to(device), x.to(device, copy=True).requires_grad_(case.mode == "grad")
    contexts = {
        "grad": torch.enable_grad,
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
    }
    try:
        with contexts[case.mode]():
            y = net(x, seen)
            outcome.tensors["output"] = (y + 0).detach().clone()
        if y.requires_grad:
            generator = torch.Generator().manual_seed(case.seed)
            towards = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
            y.backward(towards)
            outcome.tensors |= {f"gradient of {n}": p.grad for n, p in net.named_parameters()}
            outcome.tensors["gradient of x"] = x.grad
    except Exception as error:
        outcome.error = f"{type(error).__name__}: {error}".splitlines()[0]
        return outcome
    for number, t in enumerate(seen):
        retained = t.requires_grad and not t.is_leaf
        outcome.tensors[f"seen {number}"] = t.grad if retained else t
    for name, buffer in net.named_buffers():
        is_range = name.endswith("range")
        if "running" in name or is_range:
            outcome.tensors[name] = buffer
    outcome.tensors = {n: t if t is None else t.cpu() for n, t in outcome.tensors.items()}
    return outcome


def compare(ours, theirs, magnified):
    """Return the differences between two outcomes as text."""
    if theirs.error:
        # Autograd refuses what it has saved and was overwritten; blocks save less than that.
        lenient = "modified by an inplace operation" in theirs.error
        return [] if ours.error or lenient else [f"works, but torch says {theirs.error}"]
    if ours.error:
        return [f"ended in {ours.error}"]
    found = []
    for name in ours.tensors.keys() | theirs.tensors.keys():
        a, b = ours.tensors.get(name), theirs.tensors.get(name)
        if (a is None) != (b is None):
            found.append(f"{name}: {'absent' if a is None else 'there'}")
        elif a is not None and (a.shape != b.shape or not _is_close(a, b, magnified)):
            worst = float("inf") if a.shape != b.shape else float((a - b).abs().max())
            found.append(f"{name}: differs by {worst:.3g} of {float(b.abs().max()):.3g}")
    return found


# A value passes through fewer than 500 float32 roundings: sums of at most 54 products forward and
# backward, statistics of 50 values with their gradients, each of them twice, and the functions
# between; normalization magnifies errors by up to 32 times here, by more where a channel was
# written to be constant. What cancels, as the gradient of a bias that normalization takes away,
# errs by the rounding of summands of some tens. What a fault does is far more.
BOUND, SUMMANDS, USUAL = 4 * 500 * 2**-24, 10.0, 32.0


def _is_close(ours, theirs, magnified):
    ours, theirs = ours.double(), theirs.double()
    largest = float(theirs.abs().max()) if theirs.numel() else 0.0
    return bool(
        (
            (ours - theirs).abs()
            <= BOUND * max(1.0, magnified / USUAL) * max(largest, SUMMANDS * 2**-3)
        ).all()
    )


def attempt(case, device="cpu"):
    """Return the differences of a case there, or None where float32 may lie beyond a kink."""
    doubts = Doubts()
    net, specified, x = networks(case, doubts)
    other = copy.deepcopy(specified)
    with KinksOfFunctions(doubts):
        theirs = run(specified, x.double(), case)
    if doubts.found and not theirs.error:
        return None
    # On CUDA torch's own convolutions may else round to ten bits.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        ours = run(net, x, case, device)
    found = compare(ours, theirs, doubts.magnified)
    if found and case.action in HIDDEN_WRITES:
        # They change the output that torch's sigmoid keeps, and so the gradient of what was before
        # them; a block keeps its sums. A layer in float has the one, one in integers the other.
        with KinksOfFunctions(doubts, SigmoidOfInput.apply):
            found = compare(ours, run(other, x.double(), case), doubts.magnified)
    return found


def explore(count, seed, device="cpu"):
    """Compare `count` cases on a device; return differences by case, and how many were doubtful."""
    rng = random.Random(seed)
    differences, doubtful, done = {}, 0, 0
    while done < count:
        case = draw_case(rng)
        is_possible = str(device) == "cpu" or case.action not in OF_THE_HOST
        found = attempt(case, device) if is_possible else None
        if found is None:
            doubtful += 1
            continue
        done += 1
        if found:
            differences[case] = found
    return differences, doubtful


def main():
    """Compare as many cases as asked for and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {args.seed}")
    differences, doubtful = explore(args.count, args.seed)
    kinds = collections.Counter()
    for case, found in differences.items():
        kinds[case.action] += 1
        if kinds[case.action] <= 3:
            print(case, *found, sep="\n    ")
    print(dict(kinds))
    print(f"{args.count} compared, {len(differences)} differ, {doubtful} draws too close to a kink")
    return 1 if differences else 0


if __name__ == "__main__":
    raise SystemExit(main())
