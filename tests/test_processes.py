"""Several processes train what one would: the same losses, figures and weights, whoever goes on with it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from importlib.resources import files as resources

import numpy as np
import pytest
from safetensors.numpy import load_file

from zhaiju.errors import ConfigError
from zhaiju.training.processes import Processes
from zhaiju.training.run import read_metrics

SAMPLE = resources("zhaiju.starter") / "sample"
SETTINGS = {
    "layers": 1, "hidden": 16, "heads": 2, "intermediate": 32, "positions": 96, "window": 64, "overlap": 10,
    "dropout": 0, "lr": 0.01, "max-steps": 12, "batch-tokens": 2048, "batch-size": 7, "accumulation": 2,
    "eval-every": 6, "save-every": 4, "threads": 1, "clip": 1, "average": 0.5,
}  # fmt: skip
ROWS = 45  # an odd number in every share

# A softmax does not see what is added to all of its inputs: these weights' gradients are rounding errors, which AdamW
# takes for gradients.
SHIFTS = ("key.bias", "qa_outputs.bias", "classifier.bias")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, source, rows in (("train.json", "train.json", ROWS), ("dev.json", "held_out.json", 7)):
        values = json.loads((SAMPLE / source).read_text("utf-8"))[:rows]
        (folder / name).write_text(json.dumps(values, ensure_ascii=False), "utf-8")
    (folder / "context.json").write_text((SAMPLE / "context.json").read_text("utf-8"), "utf-8")
    return folder


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """Gives what one process trains, once for each task."""

    @cache
    def run(task):
        folder = tmp_path_factory.mktemp("alone") / task
        train(task, data, folder)
        return folder

    return run


def launcher(kind):
    """Arguments of Python that start two processes under DDP, or one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return {
        "alone": [],
        "ddp": ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port],
    }[kind]


def command(task, data, run, kind="alone", **changes):
    found = [sys.executable, *launcher(kind), "-m", "zhaiju", "train", task, "--scratch"]
    found += ["-o", str(run), "--train", str(data / "train.json"), "--dev", str(data / "dev.json")]
    for name, value in (SETTINGS | changes).items():
        found += [f"--{name}", str(value)]
    return found


def train(*given, **changes):
    done = subprocess.run(command(*given, **changes), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def events(run, kind, name):
    return [entry[name] for entry in read_metrics(run) if entry["event"] == kind]


def weights(run, which="last"):
    return load_file(run / which / "model.safetensors")


def same_training(run, other, primary):
    # Sums in another order differ in the last digits, and training widens that a little.
    for kind, name in (("step", "loss"), ("step", "grad_norm"), ("evaluate", primary), ("evaluate", "ece")):
        assert events(run, kind, name) == pytest.approx(events(other, kind, name), rel=2e-3, abs=2e-4)
    for name in ("step", "items", "tokens", "lr", "epoch"):
        assert events(run, "step", name) == events(other, "step", name)
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if name.endswith(SHIFTS):
            continue
        np.testing.assert_allclose(value, theirs[name], atol=5e-3, err_msg=name)


@pytest.mark.parametrize(("task", "primary"), [("select", "accuracy"), ("read", "em")])
def test_two_processes_train_what_one_does(data, alone, tmp_path, task, primary):
    done = train(task, data, tmp_path / "two", "ddp")
    same_training(tmp_path / "two", alone(task), primary)
    assert done.stdout.count("best step") == 1  # one of them speaks
    found, wanted = (json.loads((run / "outcomes.json").read_text("utf-8")) for run in (tmp_path / "two", alone(task)))
    assert found["ids"] == wanted["ids"]
    assert (tmp_path / "two" / "last" / "config.json").read_text() == (alone(task) / "last" / "config.json").read_text()


def test_a_run_goes_on_with_another_number_of_processes(data, alone, tmp_path):
    run = tmp_path / "run"
    for launched, wanted in (("ddp", 5), ("alone", 9), ("ddp", None)):
        with subprocess.Popen(
            command("read", data, run, launched), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            while wanted and process.poll() is None and len(events_so_far(run)) < wanted:
                time.sleep(0.01)
            if wanted and process.poll() is None:
                process.send_signal(signal.SIGTERM)
            _, err = process.communicate()
    assert process.returncode == 0, err
    same_training(run, alone("read"), "em")


def events_so_far(run):
    return events(run, "step", "step") if (run / "metrics.jsonl").is_file() else []


def test_what_the_first_process_refuses_stops_all_with_one_line(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    done = subprocess.run(command("read", data, tmp_path / "run", "ddp"), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.count("exists and is not a run; use another -o") == 1
    assert os.listdir(tmp_path / "run") == ["notes.txt"]


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "launched for DeepSpeed; expected data parallelism"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "launched for Megatron-LM; expected data parallelism"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_TP_SIZE": "2"}, "for a parallelism_config"),
        ({"ACCELERATE_USE_FSDP": "true"}, "launched for FSDP; expected data parallelism"),
    ],
)
def test_other_kinds_of_parallelism_are_refused(monkeypatch, environment, line):
    for name, value in ({"WORLD_SIZE": "2"} | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=line):
        Processes()


# Each process says what it would predict and what it got of the others.
SHARES = """
import json, sys
from zhaiju.training.processes import Processes

processes = Processes()
found = []
for count in range(8):
    own = processes.share(range(count))
    found.append([processes.together(own), processes.sum(float(len(own)), 0.5), processes.any(5 in own)])
told = processes.first(lambda: f"from {processes.rank}")
open(f"{sys.argv[1]}/{processes.rank}", "w").write(json.dumps([found, told]))
"""


def test_every_example_is_in_one_share_and_comes_back_in_its_place(tmp_path):
    script = tmp_path / "shares.py"
    script.write_text(SHARES)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    done = subprocess.run([*launcher, str(script), str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = [[list(range(count)), [float(count), 1.5], count > 5] for count in range(8)]
    for rank in range(3):
        assert json.loads((tmp_path / str(rank)).read_text()) == [wanted, "from 0"]
