"""replay/summary.py: counted anew from a run's lines, percentiles against numpy's definition by hand."""

import pytest

from leo_edge.replay.player import SimulatedClock
from leo_edge.replay.replayer import PlayOptions, Replayer
from leo_edge.replay.run_files import FORMAT, Run
from leo_edge.replay.summary import answers_by_id, percentiles, summarize, summary_lines
from leo_edge.runtime.errors import DatasetError
from tests.replay.drives import Asks, TimedPipeline, keyframes


def run_of(options: PlayOptions, encode_ms: float, ask_ms: float) -> Run:
    clock = SimulatedClock()
    replayer = Replayer(TimedPipeline(encode_ms, ask_ms, clock), Asks(2), options, clock)
    outcomes = [one for name in ("first", "second") for one in replayer.replay(keyframes(6, name=name))]
    identity = {"format": FORMAT, "bundle": "b", "play": options.to_json()}
    return Run(identity, tuple(a for one in outcomes for a in one.answers), tuple(one.timing for one in outcomes))


def test_counts_sets_answers_drops_and_misses() -> None:
    """Of 6 sets, 500 ms apart, 0, 2, 4 and 5 are taken, each for a second; the second answer of each is late, the last all."""
    run = run_of(PlayOptions(rate=1.0, deadline_ms=800), 400, 300)
    summary = summarize(run, Asks(2))
    assert summary["sets"] == {"there": 12, "taken": 8, "dropped": 4}
    assert summary["answers"] == {"answered": 16, "unanswered": 8, "late": 10, "finish": {"stop_token": 16}}
    assert summary["rate"]["achieved"] == pytest.approx(5.0 / 8.0)
    assert summary["rate"]["sets_per_s"] == pytest.approx(1.0)
    assert summary["latency_ms"]["encode"] == {"n": 8, "p50": 400, "p90": 400, "p99": 400, "max": 400}
    assert summary["latency_ms"]["answer, since set"]["max"] == 1500
    assert summary["latency_ms"]["decode"]["n"] == 16
    assert summary["peak_memory_mb"] == max(end["peak_memory_mb"] for end in run.ends)


def test_percentiles_lie_between_the_values() -> None:
    """Of 1 to 101, p50 is 51 and p99 is 100: the rank is share * (n - 1)."""
    assert percentiles([float(i) for i in range(101, 0, -1)]) == {"n": 101, "p50": 51, "p90": 91, "p99": 100, "max": 101}
    assert percentiles([1.0, 2.0])["p50"] == 1.5


def test_an_interrupted_run_has_no_rate() -> None:
    run = run_of(PlayOptions(), 10, 10)
    run.ends[0]["resumed"] = True
    summary = summarize(run, Asks(2))
    assert summary["rate"] == {"asked": None, "achieved": None, "sets_per_s": None}
    assert summary_lines(summary)[0] == "played as fast as possible"


def test_scores_are_those_of_the_questions() -> None:
    run = run_of(PlayOptions(), 10, 10)
    assert summarize(run, Asks(2))["scores"] == {"answers": answers_by_id(run)}
    assert len(answers_by_id(run)) == 24


def test_a_run_without_an_answer_is_refused() -> None:
    with pytest.raises(DatasetError, match="no question was answered"):
        summarize(Run({"play": PlayOptions().to_json()}, (), ()), Asks())


def test_says_in_lines_what_it_holds() -> None:
    summary = summarize(run_of(PlayOptions(rate=1.0, deadline_ms=800), 400, 300), Asks(2))
    text = "\n".join(summary_lines(summary))
    assert "played at rate 1, 0.62 s of the drives a second" in text
    assert "12 frame sets, 8 taken, 4 dropped" in text
    assert "16 answers, 10 later than 800 ms; 8 questions went unanswered with dropped sets" in text
