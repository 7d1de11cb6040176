"""Every target with its whole corpus and some hundred new inputs, and the driver that counts them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import faults
from budget import examples
from fuzz import table
from fuzz.campaign import Campaign, run_block
from fuzz.target import CORPUS, block_of
from fuzz.targets import all_targets

TARGETS = all_targets()
FEW = {"docx": 60, "pdf": 60, "parquet": 60, "recipe": 60, "encoder": 100, "bm25": 100, "api": 120}


def silent(line):
    pass


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_keeps_its_promises(name):
    target = TARGETS[name]
    seeds = target.corpus()
    assert seeds
    result = run_block(target, [*seeds, *block_of(target, seeds, 1, 0, examples(FEW.get(name, 200)))])
    assert not [(what, message, data) for what, message, _, data in result.findings]


def test_the_corpus_is_small_and_of_targets():
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < 300_000


def test_inputs_are_decided_by_seed_target_and_number():
    target = TARGETS["course"]
    seeds = target.corpus()
    assert list(block_of(target, seeds, 3, 7, 50)) == list(block_of(target, seeds, 3, 7, 50))
    assert list(block_of(target, seeds, 3, 7, 50)) != list(block_of(target, seeds, 4, 7, 50))
    assert len(set(block_of(target, seeds, 3, 7, 200))) > 150


@pytest.mark.slow
def test_faults_are_found_counted_once_and_kept_and_a_campaign_goes_on(tmp_path):
    target = faults.TARGETS[0]

    def run(cases):
        campaign = Campaign(tmp_path / "fuzz.json", tmp_path / "found", 0)
        campaign.run(target, cases, 60, time.monotonic() + 60, silent)
        return campaign.tally(target)

    first = run(100)
    assert first.cases == 100
    tally = run(400)
    assert tally.cases == 400
    inputs = [data[0] % 64 for block in range(20) for data in block_of(target, [], 0, block, 20)]
    expected = {
        "ValueError in faults.py check_faulty": 1,
        "BrokenError in faults.py check_faulty: no two": 2,
        "MemoryError in faults.py check_faulty": 3,
        "process ended by SIGSEGV": 4,
    }
    assert all(number in inputs for number in expected.values())
    found = {what: finding.cases for what, finding in tally.findings.items() if what != "slow"}
    assert found == {what: inputs.count(number) for what, number in expected.items()}
    for what, number in expected.items():
        finding = tally.findings[what]
        assert finding.first == inputs.index(number)
        assert (tmp_path / "found" / finding.input).read_bytes()[0] % 64 == number


@pytest.mark.slow
def test_a_killed_campaign_goes_on_where_it_stood(tmp_path):
    results = tmp_path / "fuzz.json"
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "fuzz", "tags", "--cases", "40000", "--results", results, "--found", tmp_path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])}

    def start():
        return subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True)

    killed = start()
    while not results.is_file() and killed.poll() is None:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = json.loads(results.read_text("utf-8"))["cases"] if results.is_file() else 0
    again = start()
    assert again.communicate()[0] is None
    assert again.returncode == 0
    told = json.loads(results.read_text("utf-8"))
    assert told["cases"] == told["targets"]["tags"]["cases"] >= max(before, 40_000)
    assert told["targets"]["tags"]["findings"] == {}


def test_the_table_is_what_the_results_say():
    page = table.PAGE.read_text("utf-8")
    shown = page.partition(table.BEGIN)[2].partition(table.END)[0].strip()
    assert shown == "\n".join(table.rows(Path(__file__).parents[1] / "docs" / "fuzz.json"))
    assert re.search(r"^[\d,]+ cases in all", shown)
