"""docs/trust.md is true: its commands run what it says, its numbers are those of the tests."""

import re
import shlex
from pathlib import Path

import pytest

import test_hostile

ROOT = Path(__file__).parents[1]
TRUST = (ROOT / "docs" / "trust.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in TRUST.splitlines() if "`" in line and "|" in line
]
FILES = {
    "pdf": len(test_hostile.PDFS),
    "docx": len(test_hostile.DOCXS),
    "texts_and_pages": len(test_hostile.OTHERS),
    "data or value": len(test_hostile.DATA_FILES),  # one of them is fine, and one is a test of its own
    "checkpoint": len(test_hostile.BROKEN) - 1,
}


def test_there_are_rows():
    assert len(ROWS) > 15


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_each_row_has_a_command_that_selects_tests_and_a_dated_result(row):
    *_, command, seen = row
    assert re.match(r"20\d\d-\d\d-\d\d: \w|not run", seen)
    if " -m fuzz " in command:  # its figures: see test_fuzz
        assert command.split()[3] == row[0]
        return
    words = [word for word in shlex.split(command.strip("`")) if not word.startswith("ZHAIJU_KILL")]
    assert words[0] == ".venv/bin/pytest"
    tests = re.findall(r"^def (test_\w+)", (ROOT / words[1]).read_text("utf-8"), re.MULTILINE)
    selected = words[words.index("-k") + 1] if "-k" in words else "test"
    for part in selected.split(" or "):
        assert any(part in name for name in tests), part
    if words[1] == "tests/test_hostile.py" and selected in FILES:
        assert row[1] == str(FILES[selected])
