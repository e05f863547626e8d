"""docs/docker.md: what it tells to type names what there is."""

import re
import shlex

import pytest

from leo_edge.cli import build_parser
from tests.docker.dockerfile import base_images, read_stages, script_calls
from tests.docker.parts import DOCKERFILES, ROOT, SCRIPTS
from tests.docker.test_compose import DEFAULT, services

PAGE = (ROOT / "docs" / "docker.md").read_text()
BLOCKS = "\n".join(re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")


def test_every_dockerfile_has_its_row_and_its_build() -> None:
    for dockerfile in DOCKERFILES:
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `docker/{dockerfile.name}`"))
        assert all(f"`{base}`" in row for base in base_images(read_stages(dockerfile)))
        for call in script_calls(read_stages(dockerfile)):
            if call[0].endswith("/install-tensorrt.sh"):
                assert call[2].partition("-")[0] in row
                assert call[3].replace("-", ".") in row
    built = set(re.findall(r"docker build -f (\S+)", BLOCKS))
    assert built <= {f"docker/{path.name}" for path in DOCKERFILES}
    assert len(built) == len(DOCKERFILES) - 1  # 7.2 goes as 6.2 does


def commands() -> list[list[str]]:
    """Returns the calls of leo-edge in the page's blocks."""
    lines = [line.partition(" #")[0] for line in BLOCKS.splitlines()]
    return [shlex.split(found[1]) for line in lines if (found := re.search(r"\sleo-edge (.+)$", line))]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_are_understood(words: list[str]) -> None:
    build_parser().parse_args(words)


def test_page_has_commands() -> None:
    assert {words[0] for words in commands()} == {"demo", "build", "device-check"}


def test_services_and_variables_are_those_of_the_compose_file() -> None:
    composed = [line for line in BLOCKS.splitlines() if "docker compose" in line]
    profiles = {profile for service in services().values() for profile in service["profiles"]}
    assert {profile for line in composed for profile in re.findall(r"--profile (\S+)", line)} == profiles
    assert {name for line in composed for name in re.findall(r"\b(?:node|player|recorder)-\w+", line)} <= set(services())
    variables = {name for name, _ in DEFAULT.findall((ROOT / "docker" / "compose.yaml").read_text())}
    assert all(f"`{name}`" in PAGE for name in variables)
    assert {name for line in composed for name in re.findall(r"\b([A-Z_]+)=", line)} <= variables


def test_every_script_is_said_to_have_run_or_not() -> None:
    checked = PAGE[PAGE.index("## What was checked") :]
    scripts = {path.name for path in SCRIPTS.glob("*.sh")} - {"steps.sh"}
    assert {name for name in scripts if name not in checked} == set()


def test_page_says_that_no_image_was_built() -> None:
    assert "No image was ever built" in PAGE
    assert all("Never built so far" in path.read_text() for path in DOCKERFILES)
