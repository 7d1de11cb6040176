"""The command: `python -m fuzz --help`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run targets, repeat an input, or write the table; the exit code says whether there is anything to mend."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from fuzz import guided, table
    from fuzz.campaign import Campaign, describe
    from fuzz.targets import all_targets

    with guided.watching("--atheris" in sys.argv):
        known = all_targets()
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description="Random input for all readers; see docs/trust.md."
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {' '.join(known)}")
    parser.add_argument("--cases", type=int, help="cases of all targets together, shared out; of one if one is named")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument(
        "--slice", type=float, default=60, help="seconds of computing of a target before the next has its turn"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--results", type=Path, default=ROOT / "docs" / "fuzz.json", help="counts; it goes on from there"
    )
    parser.add_argument("--found", type=Path, default=ROOT / "build" / "fuzz", help="folder for inputs with findings")
    parser.add_argument("--input", type=Path, action="append", help="give a target these files alone, and tell")
    parser.add_argument("--atheris", action="store_true", help="guided by coverage; needs atheris, counts nothing")
    parser.add_argument("--table", action="store_true", help="write the table of docs/trust.md from the results")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(known):
        parser.error(f"unknown target {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    if options.table:
        table.write(options.results)
        return 0
    chosen = [known[name] for name in options.targets or known]
    if (options.input or options.atheris) and len(chosen) != 1:
        parser.error("name one target")
    if options.atheris:
        return guided.run(chosen[0], seconds=options.seconds, seed=options.seed, found=options.found)
    for path in options.input or ():
        try:
            chosen[0].check(path.read_bytes())
        except BaseException as error:
            print(f"{path}: {': '.join(describe(error))}", file=sys.stderr)
            raise
    if options.input:
        return 0
    campaign = Campaign(options.results, options.found, options.seed)
    share = sum(target.cases for target in chosen)
    wanted = {target.name: round((options.cases or share) * target.cases / share) for target in chosen}
    try:
        campaign.run_all(chosen, wanted, seconds=options.seconds, turn=options.slice, say=_say)
    except KeyboardInterrupt:
        campaign.save()
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return int(any(not finding.mended for target in chosen for finding in campaign.tally(target).findings.values()))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
