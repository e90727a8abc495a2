"""The acceptance map: no row is missing, and what it names exists. That the tests pass is what running them says."""

import ast
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from selfsight.recipes import RECIPES

ROOT = Path(__file__).resolve().parent.parent
MAP = ROOT / "docs" / "acceptance.md"
TABLE = MAP.read_text().split("\n## ")[0]  # without the table of long runs
COUNTS = {"M": 31, "B": 15, "D": 20, "A": 10, "C": 10, "O": 13, "E": 18, "L": 11, "V": 13, "X": 11, "T": 20, "P": 6}
WANTED = {f"{letter}{number:02}" for letter, count in COUNTS.items() for number in range(1, count + 1)}


def rows() -> list[tuple[str, str]]:
    """(first cell, last cell) of every row of the map."""
    lines = [line.strip().strip("|").split("|") for line in TABLE.splitlines() if line.startswith("|")]
    return [(cells[0].strip(), cells[-1].strip()) for cells in lines if cells[-1].strip(" -")][1:]


def ids(cell: str) -> set[str]:
    """`M18, M19` and `B01-B05` -> row ids."""
    found: set[str] = set()
    for letter, first, last in re.findall(r"\b([A-Z])(\d\d)(?:\s*-\s*[A-Z]?(\d\d))?\b", cell):
        found |= {f"{letter}{number:02}" for number in range(int(first), int(last or first) + 1)}
    return found


def functions(file: Path) -> list[str]:
    """Names of the tests in a file, those of classes included."""
    return [node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]


def test_no_row_is_missing() -> None:
    assert len(WANTED) == 178
    listed = set().union(*(ids(first) for first, _ in rows()))
    assert not WANTED - listed
    assert not {name for name in listed if name not in WANTED}


@pytest.mark.parametrize("row", [row for row in rows() if not row[0].startswith("**")], ids=lambda row: row[0])
def test_what_a_row_names_exists(row: tuple[str, str]) -> None:
    shown = row[1]
    named = re.findall(r"`([^`]+)`", shown)
    links = re.findall(r"\]\(([^)#]+)", shown)
    assert named or links, "a row names what shows it"
    for link in links:
        assert (MAP.parent / link).exists(), link
    file = None
    for name in named:
        path, _, test = name.partition("::")
        if re.fullmatch(r"(tests/)?test_\w+\.py", path):
            file = ROOT / "tests" / Path(path).name
            assert file.is_file(), path
        elif path.startswith("test_") and not test:  # of the file named before it
            assert file is not None, name
            test = path
        elif re.match(r"(src|tests|docs|benchmarks|configs)/\S+$", path):
            assert list(ROOT.glob(path.rstrip("/"))), path
            continue
        elif re.fullmatch(r"make [\w-]+", path):
            assert re.search(rf"^{path[5:]}:", (ROOT / "Makefile").read_text(), re.M), path
        if test:
            assert file is not None
            wanted = test.split("[")[0]
            assert any(fnmatch(known, wanted) for known in functions(file)), name


def test_recipes_of_the_map_exist() -> None:
    for name in re.findall(r"`(\w+-cifar10-[\w-]+)`", MAP.read_text()):
        assert name in RECIPES, name
