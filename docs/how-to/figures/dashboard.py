"""Make dashboard.png: the live page during a fit on three workers, of which one is slow.

python docs/how-to/figures/dashboard.py  # needs playwright and a Chromium
"""

from __future__ import annotations

import argparse
import asyncio
import threading
from pathlib import Path

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, wait
from playwright.async_api import async_playwright

from skdist import DistributedSGDClassifier
from skdist.testing import delay_heartbeats, slow_down

#: Until the picture is taken.
SECONDS = 40


async def photograph(url: str, browser: str, path: Path) -> None:
    """Open the page, let it be updated for some seconds, and keep what it shows."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = await chromium.new_page(viewport={"width": 1200, "height": 760})
        await page.goto(url)
        await asyncio.sleep(SECONDS)
        await page.screenshot(path=path)
        await chromium.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    args = parser.parse_args()
    with (
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        rng = da.random.default_rng(0)
        X = rng.normal(size=(300_000, 50), chunks=(15_000, -1)).astype(np.float32)
        y = (X[:, 0] + X[:, 1] + rng.normal(size=300_000, chunks=15_000) > 0).astype(int)
        X, y = client.persist([X, y])
        wait([X, y])
        clf = DistributedSGDClassifier("log_loss", max_iter=3, tol=None, random_state=0, client=client)
        clf.fit(X, y)
        slow = list(client.scheduler_info()["workers"])[-1]
        slow_down(client, slow, 5)
        delay_heartbeats(client, slow, 0.03)
        clf.set_params(max_iter=100_000)
        fit = threading.Thread(target=clf.fit, args=(X, y), daemon=True)
        fit.start()
        url = client.dashboard_link.replace("status", "skdist")
        asyncio.run(photograph(url, args.browser, Path(__file__).with_suffix(".png")))


if __name__ == "__main__":
    main()
