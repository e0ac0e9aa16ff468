"""What docs/deploy.md and docs/runtimes.md show of the examples is what stands in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(cpp|js)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "docs" / "deploy.md", ROOT / "docs" / "runtimes.md"]
BLOCKS = [block for page in PAGES for block in BLOCK.findall(page.read_text())]
EXAMPLES = ROOT / "examples"
FILES = {
    "cpp": sorted((EXAMPLES / "cpp").glob("*.cpp")),
    "js": [ROOT / "docs" / "demo" / "nets.js"],
}


def lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


@pytest.mark.parametrize(("language", "block"), BLOCKS)
def test_excerpts_are_current(language: str, block: str) -> None:
    assert any(lines(block) in lines(file.read_text()) for file in FILES[language])


def test_there_are_excerpts() -> None:
    assert {language for language, _ in BLOCKS} == set(FILES)
