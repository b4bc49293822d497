"""Which library does this paragraph document? Text classification with hashed words on a Dask bag.

Install with ``pip install "dask-skdist[examples]"`` and run ``python text.py``. The texts are the
docstrings of five libraries that are installed beside skdist. A bag reads their files on the workers,
scikit-learn's `HashingVectorizer` turns each partition into a sparse matrix there, and one model is trained
on all of them: no text and no matrix comes to this process, and no vocabulary has to be agreed on.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import dask
import dask.array as da
import dask.bag as db
import numpy as np
from distributed import Client, LocalCluster
from sklearn.feature_extraction.text import HashingVectorizer

from skdist import DistributedSGDClassifier

LIBRARIES = ["dask", "numpy", "pandas", "scipy", "sklearn"]

#: What would give the answer away.
NAMES = re.compile(r"\b(dask|numpy|np|pandas|pd|scipy|sp|scikit|sklearn)\b", re.IGNORECASE)

LEAST_WORDS = 12

#: Every third file is enough, and read in seconds.
STRIDE = 3

N_FEATURES = 2**18


def paragraphs(path: str) -> list[str]:
    """Return the paragraphs of a file's docstrings, without the names of the libraries."""
    docs = re.findall(r'"""(.*?)"""', Path(path).read_text(encoding="utf-8"), re.DOTALL)
    texts = [NAMES.sub("", text) for doc in docs for text in doc.split("\n\n")]
    return [text for text in texts if len(text.split()) >= LEAST_WORDS]


def labelled(file: tuple[str, str]) -> list[tuple[str, str]]:
    """Return the paragraphs of a file, each with the library that it comes from."""
    path, library = file
    return [(text, library) for text in paragraphs(path)]


def read(n_partitions: int = 8) -> db.Bag:
    """Return a lazy bag of paragraphs and labels; whole files go to one partition, dealt out in turns."""
    files = []
    for library in LIBRARIES:
        spec = find_spec(library)
        assert spec is not None
        assert spec.origin is not None
        found = sorted(Path(spec.origin).parent.rglob("*.py"))[::STRIDE]
        files += [(path.as_posix(), library) for path in found if "tests" not in path.parts]
    dealt = [file for start in range(n_partitions) for file in files[start::n_partitions]]
    return db.from_sequence(dealt, partition_size=-(-len(dealt) // n_partitions)).map(labelled).flatten()


def hashed(pairs: list[tuple[str, str]]) -> tuple[object, np.ndarray]:
    """Return a sparse matrix of hashed words, and the labels."""
    texts, labels = zip(*pairs, strict=True)
    vectorizer = HashingVectorizer(n_features=N_FEATURES, alternate_sign=False)
    return vectorizer.transform(texts).astype("float32"), np.array(labels)


def collections(bag: db.Bag) -> tuple[da.Array, da.Array]:
    """Return hashed texts and labels as lazy Dask Arrays of unknown length, one block for each partition."""
    pairs = [dask.delayed(hashed, nout=2)(part) for part in bag.to_delayed()]
    columns = (np.nan, N_FEATURES)
    X = [da.from_delayed(rows, shape=columns, dtype="float32") for rows, _ in pairs]
    y = [da.from_delayed(labels, shape=(np.nan,), dtype="U7") for _, labels in pairs]
    return da.concatenate(X, allow_unknown_chunksizes=True), da.concatenate(y)


def main() -> None:
    """Read, hash, train and judge, all on the workers."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        X, y = dask.persist(*collections(read()))
        # The last of the eight partitions is held out: other files of the same libraries.
        X_train, y_train, X_test, y_test = X.blocks[:-1], y.blocks[:-1], X.blocks[-1], y.blocks[-1]
        names, counts = np.unique(y_test.compute(), return_counts=True)
        print(f"{len(y_train.compute()):,} paragraphs to train on, {counts.sum():,} to judge on")

        clf = DistributedSGDClassifier("log_loss", alpha=1e-6, random_state=0)
        clf.fit(X_train, y_train)

        print(f"{clf.n_iter_} passes; {clf.coef_.size:,} coefficients")
        print(f"always '{names[counts.argmax()]}': accuracy {counts.max() / counts.sum():.3f}")
        print(f"skdist: accuracy {clf.score(X_test, y_test):.3f}")
    rows = HashingVectorizer(n_features=N_FEATURES, alternate_sign=False).transform(
        ["Draw random samples from a multivariate normal distribution.", "Fill missing values in each group."]
    )
    print(f"'Draw random samples ...' and 'Fill missing values ...': {', '.join(clf.predict(rows))}")


if __name__ == "__main__":
    main()
