"""The recipes and plans that come with the package, by name: ``cifar10_resnet20_qat``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from micronet.utils.errors import UserError, nearest


def names() -> list[str]:
    """Return the names of all recipes and plans of the package."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def is_shipped(name: str) -> bool:
    """Whether a word is the name of a recipe or plan of the package, and of no file here."""
    return not Path(name).exists() and name in names()


def located(name: str | Path, kind: str) -> Path:
    """Return the file that a path or the name of a recipe of the package stands for.

    Args:
        name: a path, with a folder or an ending, or a name without either.
        kind: what it is to the user, for messages, such as ``schedule``.

    Raises:
        UserError: it is a name, and none of the package's.
    """
    path = Path(name)
    if path.suffix or path.name != str(name) or path.exists():
        return path
    known = [other for other in names() if other.endswith("_plan") == (kind == "plan")]
    if str(name) in known:
        return _folder() / f"{name}.yaml"
    hint = nearest(str(name), known)
    raise UserError(
        f"there is no {kind} {str(name)!r}{hint} (a file, or one of {', '.join(known)})"
    )


def _folder() -> Path:
    # The package is always unpacked: its kernels are a shared library.
    return Path(str(resources.files("micronet"))) / "recipes"
