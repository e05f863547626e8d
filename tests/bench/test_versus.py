"""A command in turns with us: the protocol, what breaks it, and the table of ratios."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from leo_edge.bench.measure import StageTime
from leo_edge.bench.result import StageSamples
from leo_edge.bench.versus import PeerSubject, versus_text
from leo_edge.runtime.errors import LeoEdgeError

_COUNTING = """
import json, sys
for number, line in enumerate(sys.stdin):
    assert line == "run\\n"
    print(json.dumps({"ms": {"prefill": 10 + number, "decode": 2.5}, "more": "is left aside"}), flush=True)
"""
_MUTE = "import time; time.sleep(60)"
_LEAVING = "import sys; sys.stdin.readline(); sys.exit(3)"


def _command(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


def _answering(line: str) -> str:
    return _command(f"import sys\nfor _ in sys.stdin: print({line!r}, flush=True)")


def _stages(**samples_ms: tuple[float, ...]) -> dict[str, StageSamples]:
    return {name: StageSamples("question", samples) for name, samples in samples_ms.items()}


def test_a_command_answers_round_by_round() -> None:
    with PeerSubject(_command(_COUNTING), {"decode": "token"}) as peer:
        rounds = [peer.round(number) for number in range(2)]
        assert peer.peak_bytes > 1 << 20
    assert rounds[0] == {
        "prefill": StageTime("question", 10.0),
        "decode": StageTime("token", 2.5),
        "answer": StageTime("question", 12.5),
    }
    assert rounds[1]["prefill"].ms == 11.0


def test_a_command_ends_with_its_input(tmp_path: Path) -> None:
    mark = tmp_path / "ended"
    with PeerSubject(_command(_COUNTING + f"open({str(mark)!r}, 'w').close()"), {}) as peer:
        peer.round(0)
        assert not mark.exists()
    assert mark.exists()


@pytest.mark.parametrize("line", ["12.3", "hello", '{"ms": 3}', '{"ms": {}}', '{"ms": {"a": "x"}}', '{"ms": {"a": -1}}', "[]"])
def test_another_answer_is_one_error_that_says_what_is_expected(line: str) -> None:
    with PeerSubject(_answering(line), {}) as peer, pytest.raises(LeoEdgeError) as error:
        peer.round(0)
    assert f"answered {line!r}" in str(error.value)
    assert '{"ms": {"STAGE": MILLISECONDS}}' in str(error.value)


def test_a_command_that_ends_early_is_told_with_its_exit_code() -> None:
    with PeerSubject(_command(_LEAVING), {}) as peer, pytest.raises(LeoEdgeError, match="ended with exit code 3"):
        peer.round(0)


def test_a_command_that_never_answers_is_ended() -> None:
    peer = PeerSubject(_command(_MUTE), {}, answer_s=0.2)
    with pytest.raises(LeoEdgeError, match=r"did not answer within 0\.2 s"), peer:
        peer.round(0)
    assert peer._process.returncode == -9


@pytest.mark.parametrize("command", ["no-such-program --fast", "", "'unfinished"])
def test_a_command_that_cannot_start_is_one_error(command: str) -> None:
    with pytest.raises(LeoEdgeError, match=r"cannot start --vs .*: give a bundle's folder, or a command"):
        PeerSubject(command, {})


def test_the_table_tells_slower_faster_and_neither() -> None:
    noise = np.random.default_rng(1).normal(1.0, 0.01, (5, 40))
    ours = _stages(prefill=tuple(noise[0] * 10), decode=tuple(noise[1]), tiles=tuple(noise[2]), router=(0.0,) * 40)
    theirs = _stages(prefill=tuple(noise[3] * 12), decode=tuple(noise[1] / 2), router=(1.0,) * 40, draft=(1.0,) * 40)
    theirs["tiles"] = StageSamples("question", tuple(noise[4]))
    lines = versus_text(ours, theirs, np.random.default_rng(0)).splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert "1.2" in rows["prefill"]
    assert rows["prefill"].endswith("B is slower")
    assert "0.500" in rows["decode"]
    assert rows["decode"].endswith("B is faster")
    assert rows["tiles"].endswith("no difference seen")
    assert rows["router"].endswith("not always run")
    assert lines[-1] == "only B has: draft"


def test_two_without_a_stage_in_common_cannot_be_compared() -> None:
    with pytest.raises(LeoEdgeError, match=r"no stage of B \(b\) is one of A's \(a\): name them alike"):
        versus_text(_stages(a=(1.0, 1.0)), _stages(b=(1.0, 1.0)), np.random.default_rng(0))
