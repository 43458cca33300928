"""What a packed file takes, tensor by tensor, beside what the official rules count."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction

from micronet.artifact.reader import Packed, network_of
from micronet.quantization import quantize
from micronet.scoring.count import Score, score_subject
from micronet.scoring.network.scored_network import ScoredNetwork, describe_network
from micronet.scoring.rules.official import OFFICIAL
from micronet.scoring.rules.rule_set import RuleSet
from micronet.utils.errors import UserError


@dataclass(frozen=True)
class Account:
    """Where the bytes of a file are, in bits.

    Attributes:
        payload: of all tensors, without what fills up their last bytes.
        rounding: that only fill these up.
        header: of names, sizes and the graph, and of what aligns the tensors behind it.
        padding: of these, what only aligns.
        saved: that codes in groups take less than the official rules count, whole bits of each.
        factors: of the payload, those of normalizations behind float sums: the score of a network
            that is not packed takes them for part of its float weights.
    """

    payload: int
    rounding: int
    header: int
    padding: int
    factors: int
    saved: int = 0

    @property
    def file(self) -> int:
        """Bits of the whole file."""
        return self.payload + self.rounding + self.header

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return self.file // 8


def account(packed: Packed) -> Account:
    """Return where the bytes of a file are."""
    specs = packed.specs.items()
    payload = sum(spec.bits for _, spec in specs)
    factors = sum(spec.bits for name, spec in specs if name.endswith(".norm_scale"))
    contents = packed.contents
    rounding = 8 * contents.data_bytes - payload
    header, padding = 8 * contents.header_bytes, 8 * contents.padding_bytes
    saved = sum(spec.saved for _, spec in specs)
    return Account(payload, rounding, header, padding, factors, saved)


def subject(packed: Packed, rules: RuleSet = OFFICIAL, accumulator: str = "32") -> ScoredNetwork:
    """Return the network of a packed file as it is scored."""
    network = network_of(packed)
    size = _side(packed)
    return describe_network(
        network,
        size,
        packed.document.input[0],
        bits=quantize.precision_of(network),
        sparsities=None,
        rules=rules,
        name=str(packed.path),
        arch=packed.document.about.arch or type(network).__name__,
        accumulator=accumulator,
    )


def _side(packed: Packed) -> int:
    _, height, width = packed.document.input
    if height != width:
        raise UserError(
            f"{str(packed.path)!r} takes images of {height} by {width}, but scored are square ones"
        )
    return height


def differences(packed: Packed, score: Score | None = None) -> list[str]:
    """Return where a file's tensors take other bits than the official rules count, as sentences.

    Codes in groups take fewer than the whole bits of each that these rules count, and are taken for
    those here.

    Args:
        packed: the file.
        score: under the official rules, where it is known already.
    """
    score = score or score_subject(subject(packed))
    counted: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for cost in score.stored:
        counted[cost.name, cost.kind] += cost.used * score.rules.word_bits
    stored: dict[tuple[str, str], int] = defaultdict(int)
    for spec in packed.specs.values():
        stored[spec.cost] += spec.counted
    return [
        f"{name} ({kind}): {stored[name, kind]} bits are stored, {counted[name, kind]} are counted"
        for name, kind in sorted(stored.keys() | counted.keys())
        if stored[name, kind] != counted[name, kind]
    ]
