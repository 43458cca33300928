"""``python -m micronet.export RUN --out DIR``: a compressed network as one file of packed codes.

The file takes as many bits as the score counts, beside a header; ``--inspect`` shows what one
holds, and ``--verify`` holds one to its format, to the score and to the network that it is of.
``--format`` writes what other programs read: ONNX, QONNX, or a state dict of float weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from micronet.artifact import accounting, exporting, inspection, reader, writer
from micronet.artifact.reader import Packed
from micronet.cli.train_arguments import Parser, add_own, allow_own
from micronet.data.preprocessing import statistics_of_record
from micronet.runs import directory
from micronet.runs.directory import LoadedRun
from micronet.scoring.count import score_subject
from micronet.utils.errors import UserError, reports_user_errors
from micronet.utils.number_format import decimal

__all__ = ["main"]


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write, show or verify a packed network; return the exit code."""
    args = parser().parse_args(argv)
    allow_own(vars(args))
    check(args)
    if args.inspect:
        packed = reader.read(args.network)
        plain = inspection.as_plain(packed)
        print(json.dumps(plain, sort_keys=True) if args.json else inspection.description(packed))
        return 0
    if args.verify:
        print(_verified(args.network, args.against))
        return 0
    written = _exported(args)
    if isinstance(written, Packed):
        print(inspection.sizes(written))
        print(_counted(written))
    path = written.path if isinstance(written, Packed) else written
    print(f"written: {path}")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    top: argparse.ArgumentParser = Parser(prog="python -m micronet.export", description=__doc__)
    add = top.add_argument
    add("network", help="run, checkpoint or saved network; a packed file to inspect or verify")
    add("--out", type=Path, metavar="DIR", help="folder that gets model.safetensors, config.json")
    add(
        "--format",
        choices=exporting.FORMATS,
        help="of --out: packed (default); onnx, with 4-bit types; qonnx; torch, a state dict",
    )
    add("--packing", choices=writer.PACKINGS, help="whole bits of each code, or radix: groups")
    add("--onnx-int8", action="store_true", help="of --format onnx: 8-bit types alone")
    add("--inspect", action="store_true", help="show what a packed file holds")
    add("--json", action="store_true", help="as one JSON object")
    add("--verify", action="store_true", help="check all of a packed file, and count its bits")
    add("--against", metavar="RUN", help="the network whose logits it has to give, bit for bit")
    add_own(top)
    return top


def check(args: argparse.Namespace) -> None:
    """Hold options to each other.

    Raises:
        UserError: there is no job or several, or an option goes with another job.
    """
    jobs = [name for name in ("out", "inspect", "verify") if getattr(args, name)]
    if len(jobs) != 1:
        raise UserError("give one of --out DIR, --inspect and --verify")
    if args.packing and not args.out:
        raise UserError(f"--packing {args.packing} goes with --out")
    for option, given in (("--format", args.format), ("--onnx-int8", args.onnx_int8)):
        if given and not args.out:
            raise UserError(f"{option} goes with --out")
    packing = args.packing or writer.WHOLE
    exporting.check_format(args.format or exporting.PACKED, args.onnx_int8, packing)
    if args.json and not args.inspect:
        raise UserError("--json goes with --inspect")
    if args.against and not args.verify:
        raise UserError(f"--against {args.against} goes with --verify")


def _exported(args: argparse.Namespace) -> Packed | Path:
    format = args.format or exporting.PACKED
    if format in (exporting.ONNX, exporting.QONNX) and reader.is_packed(args.network):
        packed = reader.read(args.network)
        return exporting.export_graph(packed, args.out, format, onnx_int8=args.onnx_int8)
    run = directory.load(args.network)
    packing = args.packing or writer.WHOLE
    return _exported_run(run, args.out, format=format, onnx_int8=args.onnx_int8, packing=packing)


def _exported_run(run: LoadedRun, out: Path, **options: Any) -> Packed | Path:
    where, meta = str(run.path), run.meta
    size = meta.get("image_size")
    if not isinstance(size, int):
        raise UserError(f"{where!r} does not say its image size")
    mean, std = statistics_of_record(meta, where) or (None, None)
    return exporting.export(
        run.model,
        out,
        image_size=size,
        channels=meta["channels"],
        arch=meta.get("arch"),
        classes=meta.get("classes") or None,
        mean=mean,
        std=std,
        **options,
    )


def _counted(packed: Packed) -> str:
    """Say how a file's payload compares with the score's storage.

    Raises:
        UserError: a tensor takes other bits than are counted.
    """
    score = score_subject(accounting.subject(packed))
    if unlike := accounting.differences(packed, score):
        raise UserError(f"{str(packed.path)!r} is not as it is scored: {unlike[0]}")
    bits, saved = decimal(score.storage_bits), accounting.account(packed).saved
    rest = f" and the {saved} that codes in groups save" if saved else ""
    return (
        f"score     {bits} bits of storage are counted, tensor by tensor those of the payload{rest}"
    )


def _verified(path: str, against: str | None) -> str:
    packed = reader.read(path)
    reader.network_of(packed)
    lines = [inspection.sizes(packed), _counted(packed)]
    if against is not None:
        writer.check_like(packed, directory.load(against).model, str(packed.path))
        lines.append(f"logits    those of {against}, bit for bit, on {writer.CHECKED} images")
    return "\n".join([*lines, f"verified: {packed.path}"])


class _Command(ModuleType):
    """A module that can be called: once imported, ``micronet.export`` is it, not the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Packed | Path:
        return exporting.export(*args, **kwargs)


sys.modules[__name__].__class__ = _Command

if __name__ == "__main__":
    sys.exit(main())
