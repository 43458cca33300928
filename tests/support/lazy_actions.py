"""What users do with a layer's output: each action takes it and a list for what it saw."""

import copy
import io
import threading
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


def scripted(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + torch.tanh(x)


with warnings.catch_warnings():
    # torch announces the end of its scripts; users still have some.
    warnings.simplefilter("ignore", DeprecationWarning)
    scripted = torch.jit.script(scripted)


def _statement(write):
    """An action that writes to the tensor and goes on with it."""

    def act(h, seen):
        write(h)
        return h

    return act


def _logged(read):
    """An action that looks without a gradient and goes on with the tensor."""

    def act(h, seen):
        with torch.no_grad():
            seen.append(read(h))
        return h

    return act


def _hooked(hook):
    def act(h, seen):
        if h.requires_grad:
            h.register_hook(lambda g: hook(g, seen))
        return h

    return act


def _retained(h, seen):
    if h.requires_grad:
        h.retain_grad()
        seen.append(h)
    return h


def _module(make, prepare):
    def act(h, seen):
        module = make()
        prepare(module, seen)
        return module(h)

    return act


def _in_thread(h, seen):
    found = []
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def work():
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            found.append(torch.tanh(h))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


def _array(h):
    """Its memory as an array, which is that of a copy where it is a device's."""
    return (h.detach() if h.device.type == "cpu" else h.detach().cpu()).numpy()


def _through_numpy(h, seen):
    array = h.detach().numpy()
    array *= 0.5
    return h


def _saved_elsewhere(h, seen):
    packed = []

    def pack(t):
        packed.append(t)
        return len(packed) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda i: packed[i]):
        return torch.tanh(F.silu(h)) * h


def _pickled(h, seen):
    file = io.BytesIO()
    torch.save(h.detach(), file)
    file.seek(0)
    return h + torch.load(file, weights_only=True)


def _alias(make, write):
    def act(h, seen):
        write(make(h))
        return h

    return act


def _norm(h):
    return F.batch_norm(h, None, None, training=True)


READS = {
    "tanh": lambda h, s: torch.tanh(h),
    "Tensor.tanh": lambda h, s: h.tanh(),
    "exp": lambda h, s: torch.exp(-h * h),
    "softmax": lambda h, s: F.softmax(h, 1),
    "log_softmax": lambda h, s: F.log_softmax(h.flatten(1), -1),
    "sum": lambda h, s: h.sum(),
    "mean": lambda h, s: h.mean((-1, -2)),
    "mean axis": lambda h, s: h.mean(axis=(2, 3)),
    "mean dim list": lambda h, s: torch.mean(input=h, dim=[3, 2], keepdim=True),
    "mean of channels": lambda h, s: h.mean((1, 2)),
    "mean dtype": lambda h, s: h.mean((2, 3), dtype=torch.float64),
    "var": lambda h, s: h.var((0, 2, 3)),
    "norm": lambda h, s: h.norm() + h.square().sum(1).sum(),
    "permute": lambda h, s: h.permute(0, 2, 3, 1),
    "transpose": lambda h, s: h.transpose(1, 2) * 2,
    "reshape": lambda h, s: h.reshape(h.size(0), -1),
    "flatten": lambda h, s: torch.flatten(h, 1),
    "view": lambda h, s: h.view(h.size(0), h.size(1), -1),
    "cat": lambda h, s: torch.cat([h, h], 1),
    "cat with x": lambda h, s: torch.cat([h * 2, h], 0),
    "stack": lambda h, s: torch.stack([h, h.detach()]),
    "pad": lambda h, s: F.pad(h, [1, 0, 0, 2]),
    "slice": lambda h, s: h[:, 1:],
    "strided slice": lambda h, s: h[..., ::2, 1:],
    "index": lambda h, s: h[:, torch.tensor([2, 0, 1])],
    "select": lambda h, s: h[0],
    "ellipsis": lambda h, s: h[..., None],
    "chunk": lambda h, s: torch.chunk(h, 2, 1)[1] * 3,
    "split": lambda h, s: h.split(2, 1)[0],
    "unbind": lambda h, s: h.unbind(0)[1],
    "flip": lambda h, s: h.flip(0),
    "roll": lambda h, s: torch.roll(h, 1, 2),
    "einsum": lambda h, s: torch.einsum("nchw,nchw->nc", h, h),
    "matmul": lambda h, s: h @ h.transpose(-1, -2),
    "interpolate": lambda h, s: F.interpolate(h, scale_factor=2),
    "avg_pool2d": lambda h, s: F.avg_pool2d(h, 2),
    "adaptive 2": lambda h, s: F.adaptive_avg_pool2d(h, 2),
    "adaptive 1": lambda h, s: F.adaptive_avg_pool2d(h, (1, 1)),
    "adaptive keywords": lambda h, s: F.adaptive_avg_pool2d(input=h, output_size=1),
    "group_norm": lambda h, s: F.group_norm(h, 2),
    "layer_norm": lambda h, s: F.layer_norm(h, h.shape[1:]),
    "instance_norm": lambda h, s: F.instance_norm(h),
    "gelu": lambda h, s: F.gelu(h),
    "mish": lambda h, s: F.mish(h),
    "relu": lambda h, s: F.relu(h),
    "relu keyword": lambda h, s: torch.relu(input=h),
    "sigmoid keyword": lambda h, s: torch.sigmoid(input=h),
    "sigmoid method": lambda h, s: h.sigmoid(),
    "silu": lambda h, s: F.silu(h),
    "swish by hand": lambda h, s: h * torch.sigmoid(h),
    "dropout 0": lambda h, s: F.dropout(h, 0.0, True),
    "times two": lambda h, s: 2 * h,
    "times gate": lambda h, s: h * torch.full_like(h[:, :, :1, :1], 0.7),
    "gate keyword": lambda h, s: torch.mul(input=h, other=torch.full_like(h[:, :, :1, :1], 0.7)),
    "gate times": lambda h, s: torch.full_like(h[:, :, :1, :1], 0.7) * h,
    "gate of one image": lambda h, s: h * torch.full_like(h[:1, :, :1, :1], 0.7),
    "times itself": lambda h, s: h * h,
    "plus itself": lambda h, s: h + h,
    "minus mean": lambda h, s: h - h.mean(),
    "rsub": lambda h, s: 1 - h,
    "divide": lambda h, s: h / (2 + h * h),
    "pow": lambda h, s: h**2,
    "where": lambda h, s: torch.where(h.detach() > 10.0, h, 2 * h),
    "clone": lambda h, s: h.clone(),
    "contiguous": lambda h, s: h.contiguous(),
    "channels last": lambda h, s: h.contiguous(memory_format=torch.channels_last),
    "to double": lambda h, s: (h.double() * 1.5).to(h.dtype),
    "to": lambda h, s: h.to(torch.float64).to(h.dtype),
    "type_as": lambda h, s: h.type_as(h) * 1,
    "detach times": lambda h, s: h.detach() * h,
    "data times": lambda h, s: h.data * h,
    "expand_as": lambda h, s: h.mean((2, 3), keepdim=True).expand_as(h) + h,
    "unfold": lambda h, s: F.unfold(h, 2),
    "cumsum": lambda h, s: h.cumsum(1),
    "norm keywords": lambda h, s: torch.batch_norm(
        input=h,
        weight=None,
        bias=None,
        running_mean=None,
        running_var=None,
        training=True,
        momentum=0.1,
        eps=1e-2,
        cudnn_enabled=False,
    ),
    "two norms": lambda h, s: F.batch_norm(
        F.batch_norm(h, None, None, training=True), None, None, training=True
    ),
    "functional conv": lambda h, s: F.conv2d(h, torch.ones_like(h[:1, :, :1, :1])),
    "torch.tensor": lambda h, s: torch.stack([h.sum(), torch.tensor(h.detach()).sum()]),
    "item": lambda h, s: h * float(h.detach().mean().item()),
    "tolist": lambda h, s: h + h.new_tensor(h.detach().tolist()),
    "numpy": lambda h, s: h + torch.from_numpy(_array(h).copy()).to(h.device),
    "deepcopy": lambda h, s: h + copy.deepcopy(h.detach()),
    "pickled": _pickled,
    "vmap": lambda h, s: torch.vmap(torch.tanh)(h),
    "vmap closed over": lambda h, s: torch.vmap(lambda t: t * F.silu(h).sum())(
        torch.ones(2, dtype=h.dtype, device=h.device)
    ),
    "scripted": lambda h, s: scripted(h),
    "Function": lambda h, s: Twice.apply(h),
    "thread": _in_thread,
    "foreach": lambda h, s: torch._foreach_mul([h, h], 2.0)[1],
    "saved elsewhere": _saved_elsewhere,
    "checkpoint": lambda h, s: checkpoint(lambda t: t * t.tanh(), h, use_reentrant=False),
    "checkpoint reentrant": lambda h, s: checkpoint(lambda t: t * t.tanh(), h, use_reentrant=True),
    "full backward hook": _module(
        nn.SiLU, lambda m, s: m.register_full_backward_hook(lambda *_: None)
    ),
    "full backward pre hook": _module(
        nn.SiLU, lambda m, s: m.register_full_backward_pre_hook(lambda *_: None)
    ),
    "logging forward hook": _module(
        nn.SiLU,
        lambda m, s: m.register_forward_hook(
            torch.no_grad()(lambda m, i, o: s.append(o.mean() + i[0].mean()))
        ),
    ),
    "detaching forward hook": _module(
        nn.SiLU,
        lambda m, s: m.register_forward_hook(
            lambda m, i, o: s.append(o.detach().mean() + i[0].detach().mean())
        ),
    ),
    "two readers": lambda h, s: torch.tanh(h) + F.silu(h),
    "two functions": lambda h, s: F.relu(h) + torch.sigmoid(h) * F.silu(h),
    "late": lambda h, s: (F.silu(h), h)[1] + h.mean((2, 3), keepdim=True),
}

WRITES = {
    "relu_": _statement(lambda h: h.relu_()),
    "torch.relu_": _statement(lambda h: torch.relu_(h)),
    "F.relu in place": _statement(lambda h: F.relu(h, inplace=True)),
    "nn.ReLU in place": _statement(lambda h: nn.ReLU(True)(h)),
    "relu_ twice": _statement(lambda h: h.relu_().relu_()),
    "F.silu in place": _statement(lambda h: F.silu(h, inplace=True)),
    "sigmoid_": _statement(lambda h: h.sigmoid_()),
    "tanh_": _statement(lambda h: h.tanh_()),
    "assigned relu_": lambda h, s: h.relu_() + h,
    "hardtanh_": _statement(lambda h: F.hardtanh_(h, -9.0, 9.0)),
    "leaky_relu_": _statement(lambda h: F.leaky_relu_(h, 1.0)),
    "dropout in place": _statement(lambda h: F.dropout(h, 0.0, True, inplace=True)),
    "add_": _statement(lambda h: h.add_(1.0)),
    "iadd": _statement(lambda h: h.__iadd__(h.detach())),
    "mul_": _statement(lambda h: h.mul_(0.5)),
    "gate_": _statement(lambda h: h.mul_(torch.full_like(h[:, :, :1, :1], 0.5))),
    "sub_ div_": _statement(lambda h: h.sub_(1).div_(2)),
    "setitem": _statement(lambda h: h.__setitem__((slice(None), 0), 0)),
    "setitem slice": _statement(lambda h: h.__setitem__((slice(None), slice(1, 3)), 0.25)),
    "setitem tensor": _statement(lambda h: h.__setitem__((0,), h[1].detach() * 2)),
    "setitem mask": _statement(lambda h: h.__setitem__((h.detach() > 50,), 0)),
    "zero_ a view": _statement(lambda h: h[:, :2].zero_()),
    "scale a view": _statement(lambda h: h.permute(1, 0, 2, 3)[1].mul_(3)),
    "view of view": _statement(lambda h: h.transpose(0, 1)[2:, 0].add_(1)),
    "chunk write": _statement(lambda h: h.chunk(2, 1)[0].mul_(2)),
    "fill_": _statement(lambda h: h.fill_(0.5)),
    "copy_": _statement(lambda h: h.copy_(h.detach().flip(0))),
    "masked_fill_": _statement(lambda h: h.masked_fill_(h.detach() > 50, 0.0)),
    "index_fill_": _statement(lambda h: h.index_fill_(1, torch.tensor([1]), 0.5)),
    "clamp_": _statement(lambda h: h.clamp_(max=50.0)),
    "out": _statement(lambda h: torch.add(torch.zeros_like(h), 1.0, out=h)),
    "out read": lambda h, s: (
        torch.mul(h.detach(), 2.0, out=torch.empty(0, dtype=h.dtype, device=h.device)) + h
    ),
    "detached write": _alias(lambda h: h.detach(), lambda a: a.mul_(0.5)),
    "data write": _alias(lambda h: h.data, lambda a: a.mul_(0.5)),
    "detached view write": _alias(lambda h: h.detach()[:, 1], lambda a: a.zero_()),
    "numpy write": _through_numpy,
    "no_grad write": _statement(torch.no_grad()(lambda h: h.mul_(0.5))),
    "no_grad setitem": _statement(torch.no_grad()(lambda h: h.__setitem__((0,), 0))),
    "unsqueeze_": _statement(lambda h: h.unsqueeze_(1).squeeze_(1)),
    "transpose_": lambda h, s: h.transpose_(2, 3),
    "detach_": _statement(lambda h: h.detach_()),
    "foreach_": _statement(lambda h: torch._foreach_mul_([h], 0.5)),
    "silu then write": lambda h, s: (F.silu(h), h.mul_(0.5))[0] + h,
    "alias then relu_": lambda h, s: (h.detach(), h.relu_())[0] + h,
    "read then relu_": lambda h, s: (h.sum(), h.relu_())[1] + h,
}

# Writes that autograd does not see: the version of the tensor stays.
HIDDEN_WRITES = ("data write", "numpy write")
# What nobody can do with a tensor of a device.
OF_THE_HOST = ("numpy write",)

OBSERVES = {
    "log mean": _logged(lambda h: h.mean()),
    "log std": _logged(lambda h: h.std() + h.max()),
    "log detach": lambda h, s: (s.append(h.detach().mean()), h)[1],
    "log data": lambda h, s: (s.append(h.data.mean()), h)[1],
    "log clone": lambda h, s: (s.append(h.detach().clone()), h)[1],
    "print": lambda h, s: (repr(h), f"{h.detach().mean():.3f}", h)[2],
    "histogram": _logged(lambda h: torch.stack(h.aminmax())),
    "hook": _hooked(lambda g, s: s.append(g.clone())),
    "hook that scales": _hooked(lambda g, s: g * 2),
    "hook that zeroes": _hooked(lambda g, s: torch.zeros_like(g)),
    "retain_grad": _retained,
    "retain and hook": lambda h, s: _hooked(lambda g, s: g * 3)(_retained(h, s), s),
    "is_leaf": lambda h, s: (s.append(torch.tensor(float(h.is_leaf or not h.requires_grad))), h)[1],
    "facts": lambda h, s: (s.append(torch.tensor([*h.shape, h.dim(), h.numel()]).double()), h)[1],
    "strides": lambda h, s: (s.append(torch.tensor(h.stride()).double()), h)[1],
    "nothing": lambda h, s: h,
}

ACTIONS = {**READS, **WRITES, **OBSERVES}
