"""Every public name says what it is: parameters, sources, an example, and a place in the reference."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import skdist
import skdist.exceptions
import skdist.testing

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"

EXCEPTIONS = [name for name, value in vars(skdist.exceptions).items() if inspect.isclass(value)]

RECORDS = ["RoundRecord", "VisitRecord", "EpochRecord", "PlanRecord", "FitRecord"]

PUBLIC = [
    *(f"skdist.{name}" for name in skdist.__all__),
    *(f"skdist.testing.{name}" for name in skdist.testing.__all__),
    *(f"skdist.exceptions.{name}" for name in EXCEPTIONS),
    *(f"skdist.records.{name}" for name in RECORDS),
    "skdist.report.FitReport",
    "skdist.report.WorkerReport",
]

#: What a method of a published method or rule has: the formulas come from somewhere.
PUBLISHED = ["AutoRate", "InverseVolatility", "LatencyBatchSizer", "PressurePlanner", "StalenessWindow"]

SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)


def public(path):
    module, name = path.rsplit(".", 1)
    if re.search("MLP|Torch", name):
        pytest.importorskip("torch")
    return getattr(importlib.import_module(module), name)


def sections_of(doc):
    """Return the text of each section of a docstring; that of '' comes before the first one."""
    begin, *parts = SECTION.split(doc)
    return {"": begin, **dict(zip(parts[::2], parts[1::2], strict=True))}


def documented(section):
    """Return the names that stand at the left edge of a section, before the colon."""
    lines = [line.split(" : ")[0] for line in section.splitlines() if line and not line[0].isspace()]
    return {name.strip(" *") for line in lines for name in line.split(",")}


def parameters(function):
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    return [name for name in names if not name.startswith("_")]


def methods_of(cls):
    """Yield name and docstring of the methods and properties that skdist defines."""
    for name, _ in inspect.getmembers(cls):
        owner = next(base for base in cls.__mro__ if name in vars(base) or base is cls)
        value = vars(owner).get(name)
        if name.startswith("_") or not owner.__module__.startswith("skdist"):
            continue
        if isinstance(value, property):
            yield name, value
        elif inspect.isfunction(inspect.unwrap(value)):
            yield name, inspect.unwrap(value)


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_name_is_documented(path):
    found = public(path)
    doc = inspect.cleandoc(found.__doc__ or "")
    sections = sections_of(doc)
    assert len(sections[""].split()) >= 5, f"{path} needs a docstring"
    if path.startswith("skdist.exceptions"):
        return
    about = documented(sections.get("Parameters", "")) | documented(sections.get("Attributes", ""))
    missing = [name for name in parameters(found) if name not in about and name != "prefixed"]
    assert not missing, f"{path}: parameters {missing} are not documented"
    if path.startswith(("skdist.records.", "skdist.report.")):
        return
    assert ">>>" in sections.get("Examples", ""), f"{path} needs an example that runs"


@pytest.mark.parametrize("path", [path for path in PUBLIC if path.rsplit(".", 1)[1][0].isupper()])
def test_methods_say_what_their_parameters_are(path):
    for name, method in methods_of(public(path)):
        doc = inspect.getdoc(method)
        assert doc, f"{path}.{name} needs a docstring"
        if isinstance(method, property) or re.search(r"\b[Aa]s in `", doc):
            continue
        missing = [one for one in parameters(method) if not re.search(rf"\b{one}\b", doc)]
        assert not missing, f"{path}.{name}: parameters {missing} are not documented"


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_rule_names_its_source(name):
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|CN\d+A", getattr(skdist, name).__doc__)


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_name_is_in_the_reference(path):
    """Add it to a table of docs/reference."""
    module, name = path.rsplit(".", 1)
    pages = {page.stem: page.read_text() for page in REFERENCE.glob("*.rst")}
    if module == "skdist.exceptions":
        assert ".. automodule:: skdist.exceptions\n   :members:" in pages["exceptions"]
    else:
        assert any(re.search(rf"^   {name}$", page, re.MULTILINE) for page in pages.values()), path
