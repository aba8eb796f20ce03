"""The documents: links lead somewhere, and the drawings are what their script draws."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    missing = [link for link in links if not (document.parent / link).exists()]
    assert not missing


def test_drawings_are_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "docs/drawings.py", str(tmp_path)], cwd=ROOT, check=True)
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "docs/images").glob("*.svg") if path.name in drawn}
    assert drawn == committed
