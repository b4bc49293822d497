"""Run the chaos suite: ``python -m tests.chaos --runs 20``."""

from __future__ import annotations

import argparse
import logging
import statistics
import sys

from tests.chaos.harness import SCENARIOS, Arena, Outcome, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="seeded runs of each scenario")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    args = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    arena = Arena()
    failed = 0
    try:
        arena.calibrate()
        print(f"undisturbed: {arena.epochs} epochs, log-loss {arena.reference:.4f}", flush=True)
        for name in [name for name in SCENARIOS if args.only in name]:
            outcomes = [attempt(arena, name, seed) for seed in range(args.seed, args.seed + args.runs)]
            failed += report(name, outcomes, arena.reference)
    finally:
        arena.close()
    return int(failed > 0)


def attempt(arena: Arena, name: str, seed: int) -> Outcome:
    outcome = run(arena, name, seed)
    if outcome.problems:
        print(f"  {name}, seed {seed}, {outcome.seconds:.1f} s: {'; '.join(outcome.problems)}", flush=True)
        arena.reopen()
    return outcome


def report(name: str, outcomes: list[Outcome], reference: float) -> int:
    """Print a line of the table; return how many runs went wrong."""
    good = [outcome for outcome in outcomes if not outcome.problems]
    seconds = [outcome.seconds for outcome in outcomes]
    worst = max((outcome.loss / reference - 1 for outcome in good), default=float("nan"))
    print(
        f"{name:34s} {len(good):3d}/{len(outcomes):<3d} seconds median {statistics.median(seconds):5.1f} "
        f"max {max(seconds):5.1f}   loss at most {100 * worst:+.2f} %",
        flush=True,
    )
    return len(outcomes) - len(good)


if __name__ == "__main__":
    sys.exit(main())
