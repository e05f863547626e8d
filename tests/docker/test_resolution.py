"""What pip would install into the images: wheels alone, for their machine and Python, all of them pinned, and no torch.

Resolved by uv, which answers for another machine and another Python: pip takes the Python it runs in for markers, and so
misses what only Python 3.10 needs. To make a list anew: take out its pins but those that its head gives reasons for, and run
the command that the failing test prints.
"""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.docker.dockerfile import read_stages, script_calls
from tests.docker.parts import DOCKER, ROOT, attempt, program

# (Dockerfile, Python, machine). manylinux_2_35 is Ubuntu 22.04's glibc; 24.04's is newer.
TARGETS = [("jetpack6.2", "3.10", "aarch64"), ("jetpack7.2", "3.12", "aarch64"), ("x86", "3.10", "x86_64")]
OUT_OF_REACH = ("Failed to fetch", "error sending request", "Connect", "dns error", "timed out")
IMAGES = [target[0] for target in TARGETS]
Answers = dict[str, subprocess.CompletedProcess[str]]


def requirements(extras: set[str]) -> list[str]:
    """Returns what setup.cfg asks for, with the named extras; an extra that names other extras brings them."""
    config = configparser.ConfigParser(delimiters="=")
    config.read(ROOT / "setup.cfg")
    texts = _lines(config["options"]["install_requires"])
    taken: set[str] = set()
    while extras - taken:
        extra = min(extras - taken)
        taken.add(extra)
        for text in _lines(config["options.extras_require"][extra]):
            requirement = Requirement(text)
            if requirement.name == "leo_edge":
                extras = extras | requirement.extras
            else:
                texts.append(text)
    return texts


def _lines(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines() if line.strip() and not line.strip().startswith("#")]


def install_options(image: str) -> tuple[set[str], list[str], Path]:
    """Returns what the Dockerfile gives install-python.sh: extras, further requirements, and the file of constraints."""
    calls = script_calls(read_stages(DOCKER / f"{image}.Dockerfile"))
    (words,) = [call for call in calls if call[0].endswith("/install-python.sh")]
    values = [(words[i], words[i + 1]) for i in range(len(words) - 1)]
    (extras,) = [value for option, value in values if option == "--extras"]
    (constraints,) = [value for option, value in values if option == "--constraints"]
    further = [value for option, value in values if option == "--with"]
    return set(extras.split(",")), further, ROOT / Path(constraints).relative_to("/src")


@dataclass(frozen=True)
class Question:
    """What is to be resolved, for which Python and machine, under which constraints."""

    texts: tuple[str, ...]
    python: str
    machine: str
    constraints: Path

    def command(self, wanted: Path) -> list[str]:
        """Returns the command of uv, for a file that holds the requirements."""
        wanted.write_text("\n".join(self.texts) + "\n")
        options = ["--python-version", self.python, "--python-platform", f"{self.machine}-manylinux_2_35"]
        # It would fetch a Python of that version, which it can do without.
        show = ["--quiet", "--no-header", "--no-annotate", "--no-python-downloads"]
        return [
            "pip",
            "compile",
            *show,
            *options,
            "--only-binary",
            ":all:",
            "--constraints",
            str(self.constraints),
            str(wanted),
        ]


def questions() -> dict[str, Question]:
    """Returns all that the tests want resolved, by a name."""
    asked = {}
    for image, python, machine in TARGETS:
        extras, further, constraints = install_options(image)
        asked[image] = Question((*requirements(extras), *further), python, machine, constraints)
        asked[f"player of {image}"] = Question(tuple(requirements({"replay"})), python, machine, constraints)
    asked["export"] = Question(tuple(requirements({"export"})), "3.12", "x86_64", ROOT / "constraints.txt")
    on_gpu, constraints = tuple(requirements({"trt", "ort-gpu"})), install_options("jetpack6.2")[2]
    for machine in ("aarch64", "x86_64"):
        asked[f"ort-gpu for {machine}"] = Question(on_gpu, "3.10", machine, constraints)
    return asked


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """The answers. All at once: each waits for the index most of its time."""
    uv, work, asked = program("uv"), tmp_path_factory.mktemp("requirements"), questions()

    def resolve(name: str) -> subprocess.CompletedProcess[str]:
        return attempt(uv, *asked[name].command(work / f"{name}.in"), cwd=work)

    with ThreadPoolExecutor(max_workers=len(asked)) as pool:
        answers = dict(zip(asked, pool.map(resolve, asked), strict=True))
    for answer in answers.values():
        if answer.returncode and any(sign in answer.stderr for sign in OUT_OF_REACH):
            pytest.skip(f"the package index is out of reach: {answer.stderr.strip().splitlines()[-1]}")
    return answers


def pinned(text: str) -> dict[str, str]:
    """Returns versions by name, from lines NAME==VERSION."""
    pairs = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("image", IMAGES)
def test_wheels_are_there_for_all_and_are_the_pinned_ones(image: str, resolved: Answers) -> None:
    extras, _, constraints = install_options(image)
    assert extras == {"trt", "build", "ort"}
    answer = resolved[image]
    assert answer.returncode == 0, answer.stderr
    found = pinned(answer.stdout)
    print(f"{image}: {len(found)} wheels\n{answer.stdout}")
    assert found == pinned(constraints.read_text()), shlex.join(["uv", *map(str, answer.args[1:])])
    assert {"cuda-bindings", "numpy", "onnx", "onnxruntime", "tokenizers"} <= set(found)
    assert not {name for name in found if name in {"torch", "transformers", "nuscenes-devkit"} or name.startswith("nvidia-")}


@pytest.mark.parametrize("image", IMAGES)
def test_cuda_bindings_are_of_the_driver_s_major_version(image: str) -> None:
    """A driver runs no newer major version of CUDA than its own; the version is beside TensorRT's in the Dockerfile."""
    calls = script_calls(read_stages(DOCKER / f"{image}.Dockerfile"))
    (words,) = [call for call in calls if call[0].endswith("/install-tensorrt.sh")]
    bindings = pinned(install_options(image)[2].read_text())["cuda-bindings"]
    assert bindings.partition(".")[0] == words[3].partition("-")[0]


@pytest.mark.parametrize("image", IMAGES)
def test_player_has_wheels_too_and_no_torch(image: str, resolved: Answers) -> None:
    """compose.yaml builds it with EXTRAS=replay."""
    answer = resolved[f"player of {image}"]
    assert answer.returncode == 0, answer.stderr
    found = set(pinned(answer.stdout))
    assert {"nuscenes-devkit", "rosbags"} <= found
    assert "torch" not in found


def test_markers_are_those_of_the_other_python(resolved: Answers) -> None:
    """Python 3.10 needs it, no newer one does."""
    assert "exceptiongroup" in pinned(resolved["jetpack6.2"].stdout)
    assert "exceptiongroup" not in pinned(resolved["jetpack7.2"].stdout)


def test_exporting_would_bring_torch(resolved: Answers) -> None:
    """The negative control of "no torch"."""
    assert {"torch", "transformers"} <= set(pinned(resolved["export"].stdout)), resolved["export"].stderr


def test_gpu_build_of_onnxruntime_has_no_wheel_for_jetpack_6(resolved: Answers) -> None:
    """The negative control of "wheels for all", and why that image runs onnxruntime on the CPU."""
    refused = resolved["ort-gpu for aarch64"]
    assert refused.returncode != 0
    assert "onnxruntime-gpu" in refused.stderr
    assert "no wheels" in refused.stderr
    assert resolved["ort-gpu for x86_64"].returncode == 0


def test_extras_bring_the_extras_that_they_name() -> None:
    assert any(text.startswith("cuda-bindings") for text in requirements({"build"}))
    assert not any(text.startswith("cuda-bindings") for text in requirements({"ort"}))
