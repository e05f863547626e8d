"""Reads Dockerfiles, as far as ours go: stages, their instructions, and what those take from where."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined."""

    name: str
    text: str


@dataclass(frozen=True)
class Stage:
    """What follows one FROM. `base` is an image or the name of an earlier stage."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]

    def texts(self, name: str) -> list[str]:
        """Returns what the instructions of one name say."""
        return [one.text for one in self.instructions if one.name == name]


def read_stages(path: Path) -> list[Stage]:
    """Returns the stages of a Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    stages: list[Stage] = []
    for line in lines:
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            stages.append(Stage(base, alias, ()))
        else:
            last = stages.pop()
            stages.append(Stage(last.base, last.name, (*last.instructions, Instruction(name, rest.strip()))))
    return stages


def base_images(stages: list[Stage]) -> list[str]:
    """Returns the images that come from outside."""
    names = {stage.name for stage in stages}
    return [stage.base for stage in stages if stage.base not in names]


def final_user(stages: list[Stage]) -> str:
    """Returns the user that the image runs as: of the last stage, or of what it is made from."""
    by_name = {stage.name: stage for stage in stages}
    stage: Stage | None = stages[-1]
    while stage is not None:
        if users := stage.texts("USER"):
            return users[-1]
        stage = by_name.get(stage.base)
    return "root"


def copied_from_context(stages: list[Stage]) -> list[str]:
    """Returns the sources of COPY and of bind mounts that lie in the build context."""
    copies = [text.split() for stage in stages for text in stage.texts("COPY")]
    sources = [word for words in copies if not words[0].startswith("--from=") for word in words[:-1]]
    mounts = [text for stage in stages for text in stage.texts("RUN")]
    return sources + re.findall(r"--mount=type=bind,source=([^,\s]+)", " ".join(mounts))


def copied_from_stages(stages: list[Stage]) -> list[str]:
    """Returns the stages that COPY takes from."""
    return re.findall(r"--from=(\S+)", " ".join(text for stage in stages for text in stage.texts("COPY")))


def script_calls(stages: list[Stage]) -> list[list[str]]:
    """Returns the calls of scripts in RUN, as words; build arguments are replaced by their defaults."""
    calls = []
    for stage in stages:
        defaults = dict(text.split("=", 1) for text in stage.texts("ARG"))
        for text in stage.texts("RUN"):
            calls += [_call(part, defaults) for part in text.split("&&")]
    return calls


def _call(text: str, defaults: Mapping[str, str]) -> list[str]:
    """Returns the words of one call, without mounts and variables before it."""
    words = [re.sub(r"\$(\w+)", lambda match: defaults[match[1]], word) for word in shlex.split(text)]
    return [word for word in words if not word.startswith("--mount=") and not re.match(r"[A-Z_]+=", word)]


def command(stages: list[Stage]) -> list[str]:
    """Returns CMD, which ours write as JSON."""
    (text,) = stages[-1].texts("CMD")
    words: list[str] = json.loads(text)
    return words
