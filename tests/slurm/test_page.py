"""The Slurm snippets of the page on job queues run on a Slurm."""

from __future__ import annotations

import pytest

from tests.test_pages import JOB_QUEUES, run, snippets_of

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]


@pytest.mark.filterwarnings("ignore:Port .* is already in use")
def test_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # jobs write their output where they were submitted
    # What differs from site to site.
    here = {
        'queue="normal"': 'queue="main"',
        "cores=8": "cores=1",
        "32GB": "2GB",
        "ib0": "lo",
        "/scratch": str(tmp_path),
        '"logs"': repr(str(tmp_path)),
        '="~"': f"={str(tmp_path)!r}",
    }
    snippets = [snippet for snippet in snippets_of(JOB_QUEUES) if "common" not in snippet]
    assert len(snippets) == 4
    for theirs, ours in here.items():
        snippets = [snippet.replace(theirs, ours) for snippet in snippets]
    names = run(JOB_QUEUES, [*snippets, "address = client.scheduler.address"])
    assert names["clf"].history_.to_frame("rounds").worker.str.startswith("tcp://127.0.0.1").all()
    assert names["address"].startswith("tls://127.0.0.1")
