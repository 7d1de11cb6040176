"""What zhaiju is made of: the lock, the pins and the licences agree with what is declared and what is installed."""

import json
import re
import runpy
import subprocess
import sys
import tomllib
from email.message import Message
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from zhaiju.files import fingerprint

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
BUILT_WITH = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
BILLED = ("train", "index")
ELSEWHERE = {"torch"}  # its builds are other files under one version


def pins():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {
        canonicalize_name(name): version for name, version in (line.split("==") for line in lines if line[0] != "#")
    }


def lock():
    """Each package's version and the hashes of its files."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "requirements.lock").read_text("utf-8"))
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            requirement, *hashes = line.split("--hash=")
            name, version = requirement.partition(";")[0].strip().split("==")
            assert canonicalize_name(name) not in found
            found[canonicalize_name(name)] = version, [value.strip() for value in hashes]
    return found


def own(extras):
    """What the project declares under its extras, those that they name included."""
    for extra in extras:
        for line in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(line)
            yield from own(requirement.extras) if requirement.name == "zhaiju" else [line]


def installed(extras):
    """Every distribution that the project with these extras needs here, as far as it is installed."""
    waiting = [(Requirement(line), "") for line in [*PROJECT["dependencies"], *own(extras)]]
    found, seen = {}, set()
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        distribution = found[name] = metadata.distribution(name)
        if name in ELSEWHERE:  # what it needs for CUDA comes with it
            continue
        for chosen in {"", *requirement.extras}:
            if (name, chosen) not in seen:
                seen.add((name, chosen))
                waiting += [(Requirement(line), chosen) for line in distribution.requires or ()]
    return found


def test_everything_that_is_installed_is_locked_with_hashes():
    locked = lock()
    assert not installed(["dev"]).keys() - locked.keys() - ELSEWHERE


def test_the_lock_has_the_versions_of_the_pins():
    locked, pinned = lock(), pins()
    assert {name: version for name, version in pinned.items() if name not in ELSEWHERE} == {
        name: version for name, (version, _) in locked.items() if name in pinned
    }
    extra = locked.keys() - pinned.keys()
    assert extra == {"colorama", "editables", "hatchling", "httpx2-jsfetch", "tomlkit", "trove-classifiers"}


def test_every_hash_is_one():
    for name, (_, hashes) in lock().items():
        assert hashes, name
        assert len(hashes) == len(set(hashes))
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), name


def test_the_pins_are_what_the_project_asks_for():
    pinned = pins() | {name: version for name, (version, _) in lock().items()}
    for line in [*PROJECT["dependencies"], *own(["dev"]), *BUILT_WITH]:
        requirement = Requirement(line)
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is pinned at {version}"


def test_neither_lock_nor_pins_name_an_index():
    for name in ("requirements.lock", "constraints.txt"):
        text = (ROOT / name).read_text("utf-8")
        assert "://" not in text
        assert "--index" not in text
        assert "--find-links" not in text


@pytest.fixture(scope="module")
def sbom(tmp_path_factory):
    """What `make sbom` writes: the bill and the table, from the same environment twice."""
    folder = tmp_path_factory.mktemp("sbom")
    for name in ("a", "b"):
        command = [ROOT / "scripts" / "sbom", "-o", folder / f"{name}.json", "--licences", folder / f"{name}.md"]
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        assert (folder / f"{name}.json").read_bytes() == (folder / "a.json").read_bytes()
    return json.loads((folder / "a.json").read_text("utf-8")), (folder / "a.md").read_text("utf-8")


def rows(text):
    return {cells[0]: cells[2] for line in text.splitlines() if len(cells := line.strip("| ").split(" | ")) == 3}


def test_the_table_of_licences_has_every_runtime_dependency(sbom):
    told = rows((ROOT / "docs" / "licences.md").read_text("utf-8"))
    assert not installed(BILLED).keys() - told.keys()
    assert told == rows(sbom[1])  # run make sbom


def test_the_bill_has_every_runtime_dependency_with_its_licence_and_hashes(sbom):
    libraries = {entry["name"]: entry for entry in sbom[0]["components"] if entry["type"] == "library"}
    locked = lock()
    for name, distribution in installed(BILLED).items():
        assert libraries[name]["version"] == distribution.version
        assert libraries[name]["licenses"][0]["expression"]
        if name not in ELSEWHERE:
            told = libraries[name]["externalReferences"][0]["hashes"]
            assert [f"sha256:{entry['content']}" for entry in told] == locked[name][1]
    refs = {entry["bom-ref"] for entry in sbom[0]["components"]}
    assert {need for entry in sbom[0]["dependencies"] for need in entry["dependsOn"]} <= refs


def test_the_bill_has_the_models_and_the_font_as_they_are(sbom):
    carried = {entry["bom-ref"]: entry for entry in sbom[0]["components"] if entry["type"] != "library"}
    large = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "src").rglob("*")
        if path.suffix in (".safetensors", ".onnx", ".otf")
    }
    assert large <= carried.keys()
    for path, entry in carried.items():
        assert entry["hashes"] == [{"alg": "SHA-256", "content": fingerprint(ROOT / path)}]
        assert entry["licenses"][0]["license"]["id"] in PROJECT["license"]


@pytest.mark.parametrize("terms", ["GPL-3.0-only", "AGPL-3.0-or-later", "MIT AND GPL-2.0-only", "Commons Clause", ""])
def test_a_licence_that_asks_for_more_stops_the_bill(terms):
    told = Message()
    told["License"] = terms
    with pytest.raises(SystemExit, match=r"strange: licence .* is not allowed"):
        runpy.run_path(str(ROOT / "scripts" / "sbom"))["licence"]("strange", SimpleNamespace(metadata=told))
