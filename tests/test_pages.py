"""The snippets of the pages run as they are, in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.slurm.conftest import import_jobqueue

DOCS = Path(__file__).parent.parent / "docs"

#: Its snippets need job queues; those for Slurm run in `tests/slurm`.
JOB_QUEUES = DOCS / "how-to" / "job-queues.md"

#: Its snippet says how to look at a fit of one's own.
HOW_IT_WORKS = DOCS / "explanation" / "how-it-works.md"


def snippets_of(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


PAGES = [
    page
    for page in sorted(DOCS.glob("*/*.md"))
    if snippets_of(page) and page not in (JOB_QUEUES, HOW_IT_WORKS)
]


def test_tutorials_and_guides_have_snippets():
    with_snippets = {page for page in PAGES if page.parent.name in ("tutorials", "how-to")}
    assert with_snippets == {*DOCS.glob("tutorials/*.md"), *DOCS.glob("how-to/*.md")} - {JOB_QUEUES}


def run(page, snippets):
    """Run snippets in one namespace, which is returned."""
    names: dict[str, object] = {}
    try:
        for number, snippet in enumerate(snippets):
            if "Cluster(" in snippet:
                close(names)
            exec(compile(snippet, f"{page.name}, snippet {number}", "exec"), names)
    finally:
        close(names)
    return names


def close(names):
    """Close the cluster of the snippets so far."""
    for name in ("client", "cluster"):
        if name in names:
            names.pop(name).close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets_run(page):
    snippets = snippets_of(page)
    if any("dask_ml" in snippet for snippet in snippets):
        pytest.importorskip("dask_ml")
    if any("torch" in snippet for snippet in snippets):
        pytest.importorskip("torch")
    if any("TrainingDisplay" in snippet for snippet in snippets):
        pytest.importorskip("matplotlib").use("Agg")
    if any("sklearn.callback" in snippet for snippet in snippets):
        pytest.importorskip("rich")
        pytest.importorskip("sklearn.callback")  # from scikit-learn 1.9 on
    run(page, snippets)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("PBS", ["#PBS -q normal", "#PBS -l select=1:ncpus=8:mem=32GB", "#PBS -l walltime=01:00:00"]),
        ("SGE", ["#$ -q all.q", "#$ -P project", "#$ -pe smp 8", "#$ -l h_vmem=4G", "#$ -l h_rt=01:00:00"]),
        ("LSF", ["#BSUB -q normal", "#BSUB -n 8", "#BSUB -M 32000", "#BSUB -W 01:00"]),
    ],
)
def test_job_scripts_of_other_queues(name, lines):
    import_jobqueue()
    (common,) = (snippet for snippet in snippets_of(JOB_QUEUES) if "common =" in snippet)
    common = re.search(r"^common = .*$", common, re.MULTILINE)[0]
    (snippet,) = (snippet for snippet in snippets_of(JOB_QUEUES) if f"= {name}Cluster(" in snippet)
    # There is no such network here, and the dashboard's usual port may be taken.
    here = f"{common}\n{snippet}".replace("ib0", "lo")
    here = here.replace("**common", "**common, scheduler_options={'dashboard_address': ':0'}")
    script = str(run(JOB_QUEUES, [here, "script = cluster.job_script()"])["script"])
    for line in lines:
        assert line in script.splitlines()
    assert "--nthreads 8 " in script
    assert "--local-directory /scratch --interface lo" in script
