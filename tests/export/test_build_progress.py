"""export/build_progress.py: bars nested as TensorRT's phases are, told from many threads, and the way to stop a build."""

import io
import threading
from contextlib import redirect_stderr

import pytest

from leo_edge.export.build_progress import BuildProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def go_through(progress: BuildProgress) -> None:
    progress.start("Building Engine", None, 2)
    progress.start("Tactics", "Building Engine", 3)
    assert all(progress.step("Tactics", step) for step in range(3))
    progress.finish("Tactics")
    assert progress.step("Building Engine", 0)
    progress.start("Tactics", "Building Engine", 1)  # a name may come again
    progress.finish("Tactics")  # and end before its steps are done
    progress.finish("Building Engine")


def test_phases_are_nested_bars_on_a_terminal() -> None:
    terminal = Terminal()
    with redirect_stderr(terminal):
        go_through(BuildProgress("llm", lambda: False))
    shown = terminal.getvalue()
    assert "\rllm: Building Engine:   0%" in shown
    assert "\n\r  Tactics:   0%" in shown  # one line below, and further in
    assert shown.endswith("\r")  # nothing stays


def test_nothing_is_shown_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    go_through(BuildProgress("llm", lambda: False))
    assert capsys.readouterr() == ("", "")


def test_every_step_asks_whether_to_stop() -> None:
    stop = threading.Event()
    progress = BuildProgress("llm", stop.is_set)
    progress.start("Building Engine", None, 2)
    assert progress.step("Building Engine", 0)
    stop.set()
    assert not progress.step("Building Engine", 1)
    assert not progress.step("a phase that never began", 0)
    progress.close()
    progress.finish("Building Engine")  # TensorRT may still say so


def test_many_threads_may_tell_at_once() -> None:
    progress = BuildProgress("llm", lambda: False)
    failures: list[BaseException] = []

    def tell(number: int) -> None:
        try:
            for _ in range(20):
                progress.start(f"part {number}", "Building Engine", 5)
                assert all(progress.step(f"part {number}", step) for step in range(5))
                progress.finish(f"part {number}")
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            failures.append(error)

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(8)]
    with redirect_stderr(Terminal()):
        progress.start("Building Engine", None, 8)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        progress.close()
    assert failures == []
