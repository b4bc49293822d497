"""The site of the docs builds, and a warning is an error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"

STRICT = ["-W", "--keep-going", "-n", "-q"]


@pytest.mark.timeout(300)
def test_the_site_builds_without_a_warning(tmp_path):
    for name in ("sphinx", "numpydoc", "myst_parser", "furo"):
        pytest.importorskip(name, reason="needs the extra 'docs'")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *STRICT, "-d", tmp_path / "trees", DOCS, tmp_path / "html"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html" / "reference" / "generated" / "skdist.DistributedSGDClassifier.html").exists()


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_links_beside_the_site_lead_somewhere(name):
    page = (DOCS.parent / name).read_text()
    links = {link for link in re.findall(r"\]\(([^)#]+)", page) if "://" not in link}
    assert not [link for link in links if not (DOCS.parent / link).exists()]
