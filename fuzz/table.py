"""The table of docs/trust.md, from the results of a campaign."""

from __future__ import annotations

from pathlib import Path

from fuzz.campaign import Tally
from fuzz.targets import all_targets
from zhaiju import files

PAGE = Path(__file__).parents[1] / "docs" / "trust.md"
BEGIN, END = "<!-- fuzzed -->", "<!-- /fuzzed -->"


def rows(results: Path) -> list[str]:
    """The lines of the table."""
    values = files.read_json(results)
    tallies = {name: Tally.load(tally) for name, tally in values["targets"].items()}
    known = {name: target for name, target in all_targets().items() if name in tallies and tallies[name].cases}
    total = sum(tallies[name].cases for name in known)
    lines = [
        f"{total:,} cases in all, seed {values['seed']}, Python {values['python']}, {values['machine']}.",
        "",
        "| part | cases | promised | command | seen |",
        "|---|---|---|---|---|",
    ]
    for name, target in known.items():
        command = f"`.venv/bin/python -m fuzz {name} --cases {tallies[name].cases}`"
        lines.append(f"| {name} | {tallies[name].cases:,} | {target.promise} | {command} | {_seen(tallies[name])} |")
    return lines


def _seen(tally: Tally) -> str:
    told = [f"{finding.mended or 'open: ' + finding.what}" for finding in tally.findings.values()]
    repeated = 1 - tally.distinct / tally.cases
    return (
        f"{tally.date}: {'; '.join(told) if told else 'kept'}; slowest {tally.slowest:.2g} s"
        f"{f', {repeated:.0%} repeated' if repeated >= 0.005 else ''}"
    )


def write(results: Path, page: Path = PAGE) -> None:
    """Put the table into the page, between its marks."""
    text = page.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    files.write_text(page, "\n".join([before + BEGIN, *rows(results), END + after]))
