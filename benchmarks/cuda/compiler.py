"""The CUDA kernels as the compiler makes them: resources from its report, instructions from SASS.

Needs nvcc and cuobjdump, and no device. Each architecture is compiled once, all kernels together.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.harness.machine import ROOT

CSRC = ROOT / "csrc"
SOURCES = sorted((CSRC / "cuda").glob("*.cu"))
ARCHITECTURES = (80, 90)
# The kernels that the launchers ask for; the launchers themselves are left to the build.
FLAGS = "-cubin -std=c++17 --fmad=false -Werror=all-warnings -Xptxas -v".split()

# What the assembler reports of a kernel.
_REPORT = re.compile(
    r"'(?P<symbol>\w+)' for 'sm_(?P<architecture>\d+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?:.*?(?P<shared>\d+) bytes smem)?[^\n]*",
    re.DOTALL,
)
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?(.*?)\s*;", re.MULTILINE)
_BRANCH = re.compile(r"^BRA\b.*\b0x([0-9a-f]+)$")
_DEFINITION = re.compile(r"__global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(")


@dataclass(frozen=True)
class Instructions:
    """Consecutive instructions, each as the disassembler prints it; where they begin and end."""

    start: int
    end: int
    lines: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.lines)

    def count(self, pattern: str) -> int:
        """Return how many instructions begin with a pattern."""
        return sum(re.match(pattern, line) is not None for line in self.lines)


@dataclass(frozen=True)
class Kernel:
    """One kernel as compiled for one architecture; sizes in bytes."""

    name: str  # with its template's arguments, without namespaces and parameters
    architecture: int
    registers: int
    spilled: int
    shared: int
    code: tuple[tuple[int, str], ...]  # address and instruction

    @property
    def stem(self) -> str:
        """The name in the source."""
        return self.name.partition("<")[0]

    @property
    def arguments(self) -> list[str]:
        """The template's arguments."""
        return re.findall(r"\w[\w ]*", self.name.partition("<")[2])

    @cached_property
    def all(self) -> Instructions:
        """Every instruction."""
        return Instructions(0, self.code[-1][0], tuple(line for _, line in self.code))

    @cached_property
    def loops(self) -> list[Instructions]:
        """The instructions between each backward branch and its target."""
        found = []
        for end, line in self.code:
            branch = _BRANCH.match(line)
            if branch and int(branch[1], 16) < end:
                start = int(branch[1], 16)
                body = tuple(text for at, text in self.code if start <= at <= end)
                found.append(Instructions(start, end, body))
        return found


def _tool(name: str) -> str:
    """Return the path of a program of the CUDA toolkit; Triton brings some of them along."""
    folders = [os.environ.get("PATH", ""), os.path.join(os.environ.get("CUDA_HOME", ""), "bin")]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        folders.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        raise SystemExit(
            f"the table of CUDA kernels needs {name}: of the CUDA toolkit, or triton's"
        )
    return found


def _run(*command: object, text: str | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], input=text, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout + done.stderr


def _readable(symbols: list[str]) -> list[str]:
    """Return C++ names without namespaces, return type and parameters."""
    names = []
    for name in _run("c++filt", text="\n".join(symbols)).splitlines():
        plain = re.sub(r"\(anonymous namespace\)::|micronet::|^void ", "", name)
        names.append(re.sub(r"\(.*\)$", "", re.sub(r"\((bool|Accumulator)\)", "", plain)))
    return names


def _code(disassembly: str) -> dict[str, tuple[tuple[int, str], ...]]:
    """Return address and text of each kernel's instructions."""
    return {
        part.split("\n", 1)[0].strip(): tuple(
            (int(at, 16), line) for at, line in _INSTRUCTION.findall(part)
        )
        for part in disassembly.split("Function : ")[1:]
    }


def _compile(architecture: int, folder: Path) -> list[Kernel]:
    source, target = folder / "kernels.cu", folder / f"kernels.{architecture}.cubin"
    report = _run("nvcc", *FLAGS, f"-arch=sm_{architecture}", "-I", CSRC, source, "-o", target)
    found = [_REPORT.match(part) for part in report.split("Compiling entry function ")[1:]]
    if not all(found):
        raise RuntimeError(f"the compiler's report is not understood:\n{report}")
    facts = [match.groupdict() for match in found if match]
    code = _code(_run(_tool("cuobjdump"), "-sass", target))
    names = _readable([fact["symbol"] for fact in facts])
    return [
        Kernel(
            name,
            int(fact["architecture"]),
            int(fact["registers"]),
            int(fact["stores"]) + int(fact["loads"]),
            int(fact["shared"] or 0),
            code[fact["symbol"]],
        )
        for name, fact in zip(names, facts, strict=True)
    ]


def compile_kernels(sources: Sequence[Path] = SOURCES) -> dict[int, list[Kernel]]:
    """Return the kernels of sources for each architecture, in order of their names."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernels.cu"
        # One unit, so that the headers are read once.
        source.write_text("".join(f'#include "{path}"\n' for path in sources))
        with ThreadPoolExecutor(len(ARCHITECTURES)) as pool:
            jobs = {number: pool.submit(_compile, number, Path(folder)) for number in ARCHITECTURES}
        return {
            number: sorted(job.result(), key=lambda kernel: kernel.name)
            for number, job in jobs.items()
        }


def definitions() -> Iterator[tuple[str, str]]:
    """Yield each kernel's name in the source and the file that defines it."""
    for path in sorted((CSRC / "cuda").iterdir()):
        for name in _DEFINITION.findall(path.read_text()):
            yield name, path.name


def digest() -> str:
    """Return what is another wherever sources, their headers, or what reads the report are."""
    found = hashlib.sha256()
    read = [path for name in ("cuda", "include") for path in (CSRC / name).glob("*.[ch]*")]
    for path in sorted([*read, *Path(__file__).parent.glob("*.py")]):
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:32]
