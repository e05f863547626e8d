"""What is installed: wheels from the tree and from the sdist hold the same, every linked package among it."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

import leo_edge

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "out", "*.egg-info", "*.so", "__pycache__", "tests")
SCRIPTS = Path("leo_edge/bench/peers")  # run where they stand, in an environment of their own
NOT_SHIPPED = {".md", ".c"}  # any other kind of file must be named in setup.cfg, options.package_data


def build(kind: str, source: Path, out: Path) -> Path:
    """Builds one `kind` (wheel or sdist) of `source` into `out` with the setuptools of this environment."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = out.iterdir()
    return built


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def shipped_files(tree: Path) -> set[str]:
    """What of leo_edge/ belongs into a wheel, with the links followed."""
    walked = os.walk(tree / "leo_edge", followlinks=True)
    files = {(Path(folder) / name).relative_to(tree) for folder, _, names in walked for name in names}
    return {str(file) for file in files if file.suffix not in NOT_SHIPPED and SCRIPTS not in file.parents}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree, so that building leaves nothing behind."""
    copy = tmp_path_factory.mktemp("source") / "leo_edge"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=NOT_SOURCE)
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


def test_every_package_folder_is_linked_by_its_name() -> None:
    folders = {init.parent.name for init in ROOT.glob("*/__init__.py")} - {"leo_edge", "tests"}
    links = {link.name: os.readlink(link) for link in (ROOT / "leo_edge").iterdir() if link.is_symlink()}
    assert links == {name: f"../{name}" for name in folders}


def test_wheel_holds_every_file_of_the_linked_packages(tree: Path, wheel: Path) -> None:
    expected = shipped_files(tree)
    assert {"leo_edge/py.typed", "leo_edge/runtime/__init__.py", "leo_edge/export/modeling/__init__.py"} <= expected
    compiled = {name for name in members(wheel) if name.endswith(".so")}
    assert {name for name in members(wheel) if name.startswith("leo_edge/")} - compiled == expected


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: the wheel is built without what is compiled")
def test_wheel_holds_what_is_compiled(wheel: Path) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert [name for name in members(wheel) if name.endswith(".so")] == [f"leo_edge/runtime/_resize{suffix}"]


def test_wheel_from_the_sdist_equals_the_wheel_from_the_tree(tree: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", tree, tmp_path / "sdist")
    shutil.unpack_archive(sdist, tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert not (unpacked / "leo_edge" / "runtime").is_symlink()
    assert members(build("wheel", unpacked, tmp_path / "wheel")) == members(wheel)


def test_installed_wheel_is_imported_and_marked_for_ament(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    code = "import leo_edge, leo_edge.runtime; print(leo_edge.__version__, leo_edge.__file__)"
    done = subprocess.run([python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    version, file = done.stdout.split()
    assert version == leo_edge.__version__
    assert Path(file).is_relative_to(home)
    # lib/leo_edge is for colcon alone, see setup.cfg.
    assert {path.name for path in (home / "bin").glob("leo*")} == {"leo-edge", "leo_edge_node"}
    assert not (home / "lib" / "leo_edge").exists()
    share = home / "share"
    assert (share / "ament_index" / "resource_index" / "packages" / "leo_edge").is_file()
    # pip compiles launch files too.
    shared = {str(path.relative_to(share / "leo_edge")) for path in (share / "leo_edge").rglob("*.*") if path.suffix != ".pyc"}
    assert shared == {"package.xml"} | {
        f"{folder}/{path.name}" for folder in ("config", "launch") for path in (ROOT / "ros_node" / folder).glob("*.*")
    }


@pytest.mark.parametrize("package", [ROOT, ROOT / "ros_node" / "leo_edge_msgs"], ids=lambda package: package.name)
def test_ament_and_pip_are_told_the_same_version(package: Path) -> None:
    assert ElementTree.parse(package / "package.xml").findtext("version") == leo_edge.__version__


@pytest.mark.parametrize("distribution", ["jazzy", "kilted"])
def test_every_wheel_of_ros_is_pinned_to_its_distribution(distribution: str) -> None:
    config = configparser.ConfigParser(delimiters="=")
    config.read(ROOT / "setup.cfg")
    named = set(re.findall(r"^ros-[a-z-]+", config["options.extras_require"]["ros"], re.MULTILINE))
    pinned = re.findall(r"^(ros-[a-z-]+)==", (ROOT / f"constraints-{distribution}.txt").read_text(), re.MULTILINE)
    assert "ros-rclpy" in named
    assert sorted(named) == sorted(pinned)
