"""The sections of a recipe as frozen dataclasses, which the strict reader fills by their types."""

from __future__ import annotations

from dataclasses import dataclass

from micronet.recipe.strict import Inherit

# Where the step of a quantizer comes from; that of the first layer's input, also from the image.
STEPS = ("range", "learned")
IMAGE = "image"
ACTIVATION_STEPS = (*STEPS, IMAGE)
# What the first batch gives the learned step of an activation.
STARTS = ("mean", "range", "mse")
# Of a weight or an input, in a recipe or a search.
MOST_BITS = 8


# Of torch, by the names of its classes in small letters.
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
# How the learning rate moves; see ``training.optimizer.learning_rate``.
LR_SCHEDULES = ("cosine", "exponential", "step", "polynomial", "plateau", "constant")
# Who decodes training images: the CPU, or the CUDA device that trains.
DECODERS = ("cpu", "device")
# Augmentation of one image.
POLICIES = ("none", "randaugment", "autoaugment-imagenet", "autoaugment-cifar10")
# What a pruning group ranks weights by.
SECOND_ORDER = "second-order"
CRITERIA = ("magnitude", SECOND_ORDER)
# When a pruning group's masks are chosen.
METHODS = ("gradual", "one-shot")


@dataclass(frozen=True)
class TrainSection:
    """How the weights are optimized: by default SGD with momentum, under a learning-rate schedule.

    ``gamma`` serves exponential, step and plateau; ``milestones`` step; ``power`` polynomial;
    ``patience`` plateau. ``optimizer`` names one of torch's: ``nesterov`` serves sgd, ``momentum``
    sgd and rmsprop, ``alpha`` rmsprop, ``betas`` adam and adamw, ``eps`` all but sgd. Learned steps
    may have an optimizer (``step_optimizer``) and an initial rate (``step_lr``) of their own, which
    follows the schedule in proportion to ``lr``. ``decay_vectors`` says whether biases and the
    parameters of normalization decay too. A batch is trained in ``accumulate`` parts of equal size,
    one after the other, whose gradients are averaged. ``clip_grad_norm`` 0 clips nothing. A loss
    above ``loss_limit`` stops the run, as one that is not finite does. Several processes normalize
    over the batch of all of them (``sync_batch_norm``), as one process would. ``model_ema`` is the
    decay of a moving average of the weights, which is what is validated and kept; 0 averages
    nothing. ``reestimate_batches`` is the number of batches over which the statistics of
    normalization are computed anew before they are validated and kept, 0 for those that training
    leaves. ``compile`` trains through torch.compile; ``channels_last`` is the order of images in
    memory. ``recompute`` says which convolutions of codes keep no integers for the backward pass,
    which makes them again: none, depthwise, all, or auto, depthwise ones whose integers take 32
    bits. On a CUDA device, ``cuda_graph`` replays each step as one graph, ``deterministic`` takes
    convolutions whose gradients have the same bits each time, and ``decode`` device decodes the
    JPEG files of training images; see ``data.device_decoding``.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    decay_vectors: bool = True
    optimizer: str = "sgd"
    betas: tuple[float, ...] = (0.9, 0.999)
    alpha: float = 0.99
    eps: float = 1e-8
    nesterov: bool = False
    step_optimizer: str | None = None
    step_lr: float | None = None
    lr_schedule: str = "cosine"
    gamma: float = 0.9
    warmup_epochs: int = 0
    lr_start_epoch: int = 0
    lr_min: float = 0.0
    milestones: tuple[int, ...] = ()
    power: float = 1.0
    patience: int = 10
    label_smoothing: float = 0.0
    clip_grad_norm: float = 0.0
    loss_limit: float = 1e4
    accumulate: int = 1
    amp: str = "none"
    sync_batch_norm: bool = True
    model_ema: float = 0.0
    reestimate_batches: int = 0
    compile: bool = False
    channels_last: bool = True
    recompute: str = "auto"
    cuda_graph: bool = False
    deterministic: bool = False
    decode: str = "cpu"
    seed: int = 0


@dataclass(frozen=True)
class PruneGroup:
    """Layers that share one pruning target, and when and in which pieces they are pruned.

    The target is one of ``final_sparsity``, ``threshold`` (of the magnitude) or ``sensitivity``
    (a threshold in standard deviations of the layer's weights). ``structure`` says what is pruned
    as one: element, filter (an output channel), channel (an input channel), a block of outputs
    and their products such as 4x1 (see ``pruning.patterns``), or 2:4 and its like, which keep 2 of
    every 4 consecutive input channels. ``scope`` group ranks the pieces of all the layers together,
    instead of each layer's. ``criterion`` says what they are ranked by: the magnitude, or how much
    the loss would rise without them to second order (see ``pruning.curvature``), which needs
    gradients before the first masks. Epochs that a group does not give are the section's.
    """

    layers: tuple[str, ...]
    final_sparsity: float | None = None
    initial_sparsity: float = 0.05
    threshold: float | None = None
    sensitivity: float | None = None
    structure: str = "element"
    scope: str = "layer"
    criterion: str = "magnitude"
    start_epoch: int | None = None
    end_epoch: int | None = None
    frequency: int | None = None


@dataclass(frozen=True)
class PruneSection:
    """When masks are chosen: every ``frequency`` epochs in ``[start_epoch, end_epoch)``.

    ``one-shot`` chooses them once, at ``start_epoch``.
    """

    groups: tuple[PruneGroup, ...]
    end_epoch: int | None = None
    start_epoch: int = 0
    frequency: int = 1
    method: str = "gradual"


@dataclass(frozen=True)
class WeightPrecision:
    """How many values a weight has: ``levels``, or ``floor(2**bits)``, 5 for 2.4 bits.

    The step between two values follows the range of the weights, or is itself learned. That of a
    range is ``symmetric`` where as many values lie below 0 as above: no zero point is stored, one
    value of 16 or 256 is not used.
    """

    bits: float | None = None
    step: str = "range"
    levels: int | None = None
    symmetric: bool = False


@dataclass(frozen=True)
class ActivationPrecision:
    """How many values an activation has, as of a weight.

    Its step follows a moving average of the range, or is learned; the decay is that of the
    average, and has no meaning for a learned step. A learned one may come with a learned
    ``offset``, and starts from the ``mean`` magnitude of the first batch, its ``range``, or the
    ends of least square error (``mse``). That of the ``image`` is one grey value of 256, for the
    layer that reads the images: nothing else is to be said of it.
    """

    bits: float | None = None
    decay: float = 0.99
    step: str = "range"
    levels: int | None = None
    offset: bool = False
    start: str = "mean"


@dataclass(frozen=True)
class QuantizeOverride:
    """Layers whose precision differs; null keeps an operand in float, absence inherits."""

    layers: tuple[str, ...]
    weights: WeightPrecision | Inherit | None = Inherit.INHERIT
    activations: ActivationPrecision | Inherit | None = Inherit.INHERIT


@dataclass(frozen=True)
class OscillationSection:
    """What is done about weights that jump to and fro between two levels; see ``oscillations``.

    ``momentum`` is the share of the newest step in the moving frequency of turns and the moving
    average of the integer. A weight whose frequency exceeds ``freeze`` stays at its rounded
    average; ``dampen`` is the weight of the loss that pulls weights to their level. Either is one
    number, or those of the first and the last epoch, between which it moves by a cosine; None does
    nothing.
    """

    momentum: float = 0.01
    freeze: float | tuple[float, ...] | None = None
    dampen: float | tuple[float, ...] | None = None


@dataclass(frozen=True)
class ProgressiveStage:
    """The fewest bits of weights and inputs from ``epoch`` on; None keeps the stage before's."""

    epoch: int
    weights: float | None = None
    activations: float | None = None


@dataclass(frozen=True)
class QuantizeSection:
    """The precision of every convolution and linear layer from ``start_epoch`` on.

    ``progressive`` lists stages by which layers come down to that precision.
    """

    weights: WeightPrecision | None
    activations: ActivationPrecision | None
    overrides: tuple[QuantizeOverride, ...] = ()
    start_epoch: int = 0
    oscillations: OscillationSection | None = None
    progressive: tuple[ProgressiveStage, ...] = ()


@dataclass(frozen=True)
class DistillSection:
    """Hinton et al. 2015: ``w*CE + d*T^2*KL(teacher || student)`` from ``start_epoch`` on.

    ``d``, the distillation weight, is ``1 - w`` unless it is given. The teacher may stand here
    instead of on the command line: a run, or an architecture with the file of its weights.
    ``features`` are patterns of the names of modules whose outputs are to be the teacher's: their
    distance, see ``compression.features``, is added with the weight ``feature_weight``.
    """

    temperature: float = 2.0
    student_weight: float = 0.3
    distill_weight: float | None = None
    start_epoch: int = 0
    teacher: str | None = None
    teacher_weights: str | None = None
    features: tuple[str, ...] = ()
    feature_weight: float | None = None


@dataclass(frozen=True)
class AugmentSection:
    """What is done to training images besides cropping and mirroring; see ``data.augmentation``.

    ``operations`` and ``magnitude`` are RandAugment's; ``mixup`` and ``cutmix`` the parameters of
    their Beta distributions, 0 for none.
    """

    policy: str = "none"
    operations: int = 2
    magnitude: int = 9
    mixup: float = 0.0
    cutmix: float = 0.0


@dataclass(frozen=True)
class Sections:
    """The sections of a whole recipe; one that is left out is None.

    ``path`` says where they stand, for messages; ``notes`` what of a foreign file means something
    else here.
    """

    train: TrainSection | None = None
    prune: PruneSection | None = None
    quantize: QuantizeSection | None = None
    distill: DistillSection | None = None
    augment: AugmentSection | None = None
    path: str = "<recipe>"
    notes: tuple[str, ...] = ()
