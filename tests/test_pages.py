"""The snippets of the how-to pages run as they are, in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parent.parent / "docs" / "how-to").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets_run(page):
    snippets = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert snippets
    if any("dask_ml" in snippet for snippet in snippets):
        pytest.importorskip("dask_ml")
    if any("torch" in snippet for snippet in snippets):
        pytest.importorskip("torch")
    names: dict[str, object] = {}
    try:
        for number, snippet in enumerate(snippets):
            exec(compile(snippet, f"{page.name}, snippet {number}", "exec"), names)
    finally:
        for name in ("client", "cluster"):
            if name in names:
                names[name].close()
