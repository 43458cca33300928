"""What lies at the top of the tree: nothing that a trial left there."""

import subprocess

from paths import ROOT

FOLDERS = "benchmarks cmake csrc docs examples kernels micronet schedules tests typings"
FILES = "CHANGELOG.md CMakeLists.txt CONTRIBUTING.md LICENSE MANIFEST.in Makefile README.md"
SETTINGS = "constraints.txt mkdocs.yml pyproject.toml setup.py"
HIDDEN = ".ci .clang-format .gitignore .pre-commit-config.yaml"


def test_the_top_holds_what_the_house_names():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    known = " ".join((FOLDERS, FILES, SETTINGS, HIDDEN)).split()
    assert {path.split("/")[0] for path in listed} == set(known)
