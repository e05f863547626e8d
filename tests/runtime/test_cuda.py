"""runtime/cuda.py on a double of CUDA: what is kept and given back, what a failed call says, and what it leaves behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from functools import partial
from typing import Any

import numpy as np
import pytest

from leo_edge.runtime.errors import BackendError
from tests.doubles.fixtures import InstallMachine, MachineEnvironment, machine_environment

__all__ = ["machine_environment"]

MB = 1 << 20


class TestPool:
    def test_a_dropped_block_is_given_again(self, edge_machine: InstallMachine) -> None:
        machine = edge_machine()
        from leo_edge.runtime.cuda import MemoryPool

        pool = MemoryPool()
        first = pool.allocate(100_000)
        pointer, size = first.pointer, first.size_bytes
        assert size >= 100_000
        assert pool.allocate(100_000).pointer != pointer  # it is held
        del first
        gc.collect()
        assert {pool.allocate(size).pointer, pool.allocate(100_000).pointer} & {pointer}
        assert machine.live()["device allocations"] == 2

    def test_a_block_that_is_a_little_larger_does(self, edge_machine: InstallMachine) -> None:
        edge_machine()
        from leo_edge.runtime.cuda import MemoryPool

        pool = MemoryPool()
        kept = {
            pool.allocate(size * MB).pointer: size for size in (4, 5, 16)
        }  # each is dropped, too large for the next or small
        assert kept[pool.allocate(4 * MB - 10).pointer] == 4
        held = pool.allocate(4 * MB)
        assert kept[held.pointer] == 4
        assert kept[pool.allocate(4 * MB).pointer] == 5
        assert pool.allocate(8 * MB).pointer not in kept  # half of 16 would lie idle
        assert pool.allocate(6 * MB).pointer not in kept

    def test_memory_does_not_grow_with_every_new_size(self, edge_machine: InstallMachine) -> None:
        """As prompts of ever more lengths come."""
        machine = edge_machine()
        from leo_edge.runtime.cuda import MemoryPool

        pool = MemoryPool()
        largest = 64 * MB
        for size in range(MB, largest, MB // 2):
            assert pool.allocate(size).size_bytes >= size
            assert machine.memory.bytes_of("user") <= (256 << 20) + 2 * largest
        assert sum(range(MB, largest, MB // 2)) > 10 * machine.memory.bytes_of("user")

    def test_what_is_kept_goes_before_memory_is_said_to_be_short(self, edge_machine: InstallMachine) -> None:
        machine = edge_machine(total_memory_bytes=10 * MB)
        from leo_edge.runtime.cuda import MemoryPool

        pool = MemoryPool()
        del (blocks := [pool.allocate(3 * MB), pool.allocate(3 * MB)])[:]
        assert blocks == []
        assert machine.live()["device allocations"] == 2
        held = pool.allocate(9 * MB)
        assert machine.live()["device allocations"] == 1
        with pytest.raises(BackendError, match=r"no memory on the device: 2\.1 MB wanted, 1\.0 of 10\.5 MB free: end other"):
            pool.allocate(2 * MB)
        del held
        assert pool.allocate(2 * MB).size_bytes == 2 * MB

    def test_threads_never_share_a_block(self, edge_machine: InstallMachine) -> None:
        edge_machine()
        from leo_edge.runtime.cuda import MemoryPool

        pool, held, shared = MemoryPool(), set[int](), list[int]()
        guard = threading.Lock()

        def work() -> None:
            for i in range(200):
                block = pool.allocate(1 + i % 3 * 70_000)
                with guard:
                    shared.extend({block.pointer} & held)
                    held.add(block.pointer)
                with guard:
                    held.remove(block.pointer)
                del block

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert shared == []


class TestPinned:
    def test_grows_and_gives_back_what_was(self, edge_machine: InstallMachine) -> None:
        machine = edge_machine()
        from leo_edge.runtime.cuda import PinnedBuffer

        buffer = PinnedBuffer()
        assert buffer.reserve(0).shape == (0,)
        buffer.reserve(10)[:] = 7
        first = buffer.pointer
        assert (buffer.reserve(4) == 7).all()
        assert buffer.pointer == first
        assert buffer.reserve(5000).shape == (5000,)
        assert machine.live() == {"pinned allocations": 1}

    def test_that_cannot_grow_has_nothing_left_to_hand_out(self, edge_machine: InstallMachine) -> None:
        machine = edge_machine(faults=("host-alloc:2",))
        from leo_edge.runtime.cuda import PinnedBuffer

        buffer = PinnedBuffer()
        buffer.reserve(100)
        for num_bytes in (200, 50):  # the second had place in what was given back for the first
            with pytest.raises(BackendError, match="CUDA failed pinning host memory: out of memory"):
                buffer.reserve(num_bytes)
        assert machine.live() == {}


class TestCapture:
    def test_records_and_runs_what_was_recorded(self, edge_machine: InstallMachine) -> None:
        machine = edge_machine()
        from leo_edge.runtime.cuda import MemoryPool, Stream

        stream, block = Stream(), MemoryPool().allocate(16)
        graph = stream.capture(lambda: stream.clear(block.pointer, 16))
        stream.wait()
        assert (machine.memory.view(block.pointer, 16) == 0xFF).all()
        graph.launch(stream)
        stream.wait()
        assert not machine.memory.view(block.pointer, 16).any()

    @pytest.mark.parametrize("error", [BackendError, KeyboardInterrupt, ValueError])
    def test_that_breaks_off_leaves_a_stream_that_works(self, edge_machine: InstallMachine, error: type[BaseException]) -> None:
        machine = edge_machine()
        from leo_edge.runtime.cuda import MemoryPool, Stream

        stream, block = Stream(), MemoryPool().allocate(16)

        def queue() -> None:
            stream.clear(block.pointer, 16)
            raise error("in the middle")

        with pytest.raises(error, match="in the middle"):
            stream.capture(queue)
        stream.wait()
        assert (machine.memory.view(block.pointer, 16) == 0xFF).all()  # it was recorded, and forgotten
        stream.clear(block.pointer, 16)
        stream.wait()
        assert not machine.memory.view(block.pointer, 16).any()
        assert "graphs" not in machine.live()

    def test_of_what_cannot_be_captured(self, edge_machine: InstallMachine) -> None:
        edge_machine()
        from leo_edge.runtime.cuda import MemoryPool, Stream

        stream, pool = Stream(), MemoryPool()
        with pytest.raises(BackendError, match=r"CUDA failed .*cudaErrorStreamCapture"):
            stream.capture(lambda: setattr(pool, "block", pool.allocate(16)))
        stream.wait()


class TestEnding:
    def test_waits_however_it_is_left(self, edge_machine: InstallMachine) -> None:
        machine = edge_machine()
        from leo_edge.runtime.cuda import MemoryPool, Stream

        stream, block = Stream(), MemoryPool().allocate(16)

        def break_off() -> None:
            with stream.ending():
                stream.clear(block.pointer, 16)
                assert (machine.memory.view(block.pointer, 16) == 0xFF).all()
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            break_off()
        assert not machine.memory.view(block.pointer, 16).any()


class TestErrors:
    def test_a_success_gives_what_the_call_gave(self, edge_machine: InstallMachine) -> None:
        edge_machine()
        from cuda.bindings import runtime as cudart

        from leo_edge.runtime.cuda import check

        success = cudart.cudaError_t.cudaSuccess
        assert check((success,), "doing") == ()
        assert check((success, 5), "doing") == 5
        assert check((success, 5, 6), "doing") == (5, 6)

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            (
                "cudaErrorMemoryAllocation",
                r"CUDA failed doing: out of memory \(cudaErrorMemoryAllocation\): end other programs$",
            ),
            ("cudaErrorIllegalAddress", r"CUDA failed doing: an illegal .* \(cudaErrorIllegalAddress\): .*start it again$"),
            ("cudaErrorInvalidValue", r"CUDA failed doing: invalid argument \(cudaErrorInvalidValue\)$"),
        ],
    )
    def test_a_failure_becomes_one_line(self, edge_machine: InstallMachine, name: str, line: str) -> None:
        edge_machine()
        from cuda.bindings import runtime as cudart

        from leo_edge.runtime.cuda import check

        with pytest.raises(BackendError, match=line) as raised:
            check((getattr(cudart.cudaError_t, name), None), "doing")
        assert "\n" not in str(raised.value)

    def test_a_copy_outside_of_a_block(self, edge_machine: InstallMachine) -> None:
        edge_machine()
        from leo_edge.runtime.cuda import MemoryPool, PinnedBuffer, Stream

        stream, block, buffer = Stream(), MemoryPool().allocate(16), PinnedBuffer()
        buffer.reserve(2 * MB)
        with pytest.raises(BackendError, match="CUDA failed copying: invalid argument"):
            stream.upload(block.pointer, buffer.pointer, 2 * MB)

    @pytest.mark.parametrize("fault", ["no-device", "driver-too-old"])
    def test_without_a_device(self, edge_machine: InstallMachine, fault: str) -> None:
        edge_machine(faults=(fault,))
        from leo_edge.runtime.cuda import describe_device

        with pytest.raises(BackendError, match=r"no CUDA device here .*--backend ort"):
            describe_device()

    def test_a_device_is_described(self, edge_machine: InstallMachine) -> None:
        edge_machine(device_name="NVIDIA L4", compute_capability=(8, 9), total_memory_bytes=24 << 30)
        from leo_edge.runtime.cuda import describe_device

        found = describe_device()
        assert (found.name, found.compute_capability, found.memory_bytes) == ("NVIDIA L4", "8.9", 24 << 30)


class TestGivenBack:
    def test_when_nobody_holds_it_any_more(self, edge_machine: InstallMachine) -> None:
        machine = edge_machine()
        from leo_edge.runtime.cuda import MemoryPool, PinnedBuffer, Stream

        pool, stream, pinned = MemoryPool(), Stream(), PinnedBuffer()
        pinned.reserve(64)
        blocks = [pool.allocate(size) for size in (1, 70_000, 70_000)]
        graph = stream.capture(partial(stream.clear, blocks[0].pointer, 1))
        everything = {"device allocations": 3, "pinned allocations": 1, "streams": 1, "events": 1}
        everything |= {"graphs": 1, "graph executables": 1}
        assert machine.live() == everything
        del graph
        assert machine.live() == {kind: count for kind, count in everything.items() if "graph" not in kind}
        del stream, pinned
        assert machine.live() == {"device allocations": 3}
        del pool  # the blocks hold it
        assert machine.live() == {"device allocations": 3}
        blocks.clear()
        assert machine.live() == {}

    def test_out_of_a_cycle_that_the_garbage_collector_finds(self, edge_machine: InstallMachine) -> None:
        machine = edge_machine()
        from leo_edge.runtime.cuda import MemoryPool

        cycle: list[Any] = [MemoryPool()]
        cycle += [cycle[0].allocate(1), cycle]
        del cycle
        gc.collect()
        assert machine.live() == {}

    def test_at_the_end_of_the_process_too(self, machine_environment: MachineEnvironment) -> None:
        """What a module still holds then is given back by handlers, of which the first to be registered is the last to run."""
        program = "\n".join(
            [
                "import atexit",
                "from tests.doubles.machine import machine",
                "atexit.register(lambda: print(machine().live()))",
                "from leo_edge.runtime.cuda import MemoryPool, PinnedBuffer, Stream",
                "pool, stream, pinned = MemoryPool(), Stream(), PinnedBuffer()",
                "pinned.reserve(64)",
                "held = pool.allocate(1), pool.allocate(70_000)",
                "graph = stream.capture(lambda: stream.clear(held[0].pointer, 1))",
                "print(sorted(machine().live()))",
            ]
        )
        ended = subprocess.run(
            [sys.executable, "-c", program], env=machine_environment(), capture_output=True, text=True, check=True
        )
        before, after = ended.stdout.splitlines()
        assert "device allocations" in before
        assert "graph executables" in before
        assert after == "{}"
        assert ended.stderr == ""


def test_rows_are_copied_between_pitches(edge_machine: InstallMachine) -> None:
    edge_machine()
    from leo_edge.runtime.cuda import MemoryPool
    from leo_edge.runtime.device_array import Copies

    copies = Copies(MemoryPool())
    source, target = np.arange(24, dtype=np.uint8).reshape(4, 6), np.full((4, 8), 99, np.uint8)
    on_device, into = copies.upload(source), copies.upload(target)
    stream = copies._stream
    stream.copy_rows(into.pointer + 1, 8, on_device.pointer + 2, 6, width=3, rows=4)
    stream.wait()
    target[:, 1:4] = source[:, 2:5]
    np.testing.assert_array_equal(into.numpy(), target)
