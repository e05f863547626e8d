"""runtime/device_array.py on a double of CUDA, held against numpy: whatever numpy's arrays do, these do on the device.

The double hands out memory that is NaN or -1 all over, raises where two copies are not ordered, and has no array that the host
could read by its address, so a result that is right was copied right.
"""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.doubles.fixtures import InstallMachine
from tests.doubles.machine import Machine

if TYPE_CHECKING:
    from leo_edge.runtime.device_array import Copies, DeviceArray

DTYPES = ("float32", "float16", "uint8", "int8", "int64", "bool")
SLICES = [slice(None), slice(2), slice(2, 5), slice(-2, None), slice(3, 3), slice(5, 2), slice(4, 99)]


@pytest.fixture
def device(edge_machine: InstallMachine) -> Machine:
    return edge_machine()


@pytest.fixture
def copies(device: Machine) -> Copies:  # noqa: ARG001 - the module is imported on the machine
    from leo_edge.runtime.cuda import MemoryPool
    from leo_edge.runtime.device_array import Copies

    return Copies(MemoryPool())


def rows(count: int = 6, dtype: str = "float32") -> npt.NDArray[Any]:
    """Returns [count, 3, 5], no two values alike as far as the type goes."""
    return np.arange(count * 15).reshape(count, 3, 5).astype(dtype)


def same(got: DeviceArray, wanted: npt.NDArray[Any]) -> None:
    assert (got.shape, got.dtype, got.nbytes) == (wanted.shape, wanted.dtype, wanted.nbytes)
    np.testing.assert_array_equal(got.numpy(), wanted)


class TestUpload:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", [(7,), (6, 3, 5), (1, 1), (0,), (0, 4), (3, 0, 2)])
    def test_comes_back_as_it_went(self, copies: Copies, shape: tuple[int, ...], dtype: str) -> None:
        array = (np.arange(int(np.prod(shape))) % 120).reshape(shape).astype(dtype)
        same(copies.upload(array), array)

    def test_of_an_array_that_is_not_in_one_piece(self, copies: Copies) -> None:
        for array in (rows().transpose(2, 0, 1), rows()[::2], rows()[:, 1], np.asfortranarray(rows()[0])):
            same(copies.upload(array), array)

    def test_is_a_copy(self, copies: Copies) -> None:
        array = rows()
        device = copies.upload(array)
        array[:] = 0
        same(device, rows())
        device.numpy()[:] = 0
        same(device, rows())

    def test_through_staging_that_grows_and_is_used_again(self, copies: Copies) -> None:
        arrays = [rows(count) for count in (1, 40, 2, 400, 3)]
        for device, array in [(copies.upload(array), array) for array in arrays]:
            same(device, array)

    def test_what_was_not_written_is_not_taken_for_a_result(self, copies: Copies) -> None:
        """The negative control: memory is not right by itself."""
        assert np.isnan(copies.empty((4,), np.dtype(np.float32)).numpy()).all()

    def test_numpy_takes_it(self, copies: Copies) -> None:
        device = copies.upload(rows())
        np.testing.assert_array_equal(np.asarray(device), rows())
        assert np.asarray(device, np.float64).dtype == np.float64
        np.testing.assert_array_equal(np.concatenate([device, rows()]), np.concatenate([rows(), rows()]))

    def test_from_several_threads(self, copies: Copies) -> None:
        wrong: list[int] = []

        def work(seed: int) -> None:
            for count in range(1, 30):
                array = rows(count) + 1000 * seed
                if not np.array_equal(copies.upload(array)[1:].numpy(), array[1:]):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


class TestRows:
    @pytest.mark.parametrize("cut", SLICES, ids=str)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_slice_is_that_of_numpy(self, copies: Copies, cut: slice, dtype: str) -> None:
        array = rows(dtype=dtype)
        same(copies.upload(array)[cut], array[cut])
        assert len(copies.upload(array)[cut]) == len(array[cut])

    def test_a_slice_of_a_slice(self, copies: Copies) -> None:
        same(copies.upload(rows())[1:5][1:3], rows()[1:5][1:3])

    def test_a_slice_shares_memory_and_keeps_it(self, copies: Copies, device: Machine) -> None:
        whole = copies.upload(rows())
        part, start = whole[2:4], whole.pointer
        assert part.pointer == start + 2 * 15 * 4
        del whole
        gc.collect()
        assert copies.upload(rows()).pointer != start
        same(part, rows()[2:4])
        assert device.live()["device allocations"] == 2

    def test_a_step_is_refused(self, copies: Copies) -> None:
        with pytest.raises(AssertionError, match="one after the other"):
            copies.upload(rows())[::2]

    @pytest.mark.parametrize("chosen", [[0, 2, 5], [5, 0], [3, 3, 3], [1], []], ids=str)
    def test_chosen_ones_are_a_copy_of_those(self, copies: Copies, chosen: list[int]) -> None:
        device, places = copies.upload(rows()), np.array(chosen, np.intp)
        picked = device[places]
        same(picked, rows()[places])
        device[:] = copies.upload(rows() + 1)
        same(picked, rows()[places])

    def test_all_of_them_are_no_copy(self, copies: Copies) -> None:
        device = copies.upload(rows())
        assert device[np.arange(6)] is device
        assert device[np.arange(5)] is not device

    @pytest.mark.parametrize("chosen", [[0, 6], [-1, 2]], ids=str)
    def test_one_that_is_not_there_is_refused(self, copies: Copies, chosen: list[int]) -> None:
        """On a device the copy would read whatever lies beside the array."""
        with pytest.raises(AssertionError, match="rows are 0 to 5, got "):
            copies.upload(rows())[np.array(chosen)]


class TestReshape:
    @pytest.mark.parametrize("shape", [(90,), (-1,), (2, -1, 5), (6, 15), (3, 2, 3, 5), (-1, 5)], ids=str)
    def test_is_that_of_numpy_without_a_copy(self, copies: Copies, shape: tuple[int, ...]) -> None:
        device = copies.upload(rows())
        shaped = device.reshape(*shape)
        same(shaped, rows().reshape(shape))
        assert shaped.pointer == device.pointer

    def test_of_a_slice(self, copies: Copies) -> None:
        same(copies.upload(rows())[2:].reshape(-1, 5)[3:7], rows()[2:].reshape(-1, 5)[3:7])

    @pytest.mark.parametrize("shape", [(7, 13), (4, -1), (-1, -1), (0, -1)], ids=str)
    def test_to_another_size_is_refused(self, copies: Copies, shape: tuple[int, ...]) -> None:
        with pytest.raises(AssertionError, match="cannot "):
            copies.upload(rows()).reshape(*shape)


class TestAssignment:
    @pytest.mark.parametrize("cut", [slice(None), slice(2), slice(2, 5), slice(3, 3)], ids=str)
    def test_changes_those_rows_and_no_others(self, copies: Copies, cut: slice) -> None:
        device, wanted = copies.upload(rows()), rows()
        value = -1 - rows(len(wanted[cut]))
        device[cut] = copies.upload(value)
        wanted[cut] = value
        same(device, wanted)

    def test_into_a_slice_reaches_the_whole(self, copies: Copies) -> None:
        device, wanted = copies.upload(rows()), rows()
        device[3:][1:2] = copies.upload(-rows(1))
        wanted[4:5] = -rows(1)
        same(device, wanted)

    def test_of_another_shape_or_type_is_refused(self, copies: Copies) -> None:
        device = copies.upload(rows())
        for value in (rows(3), rows(2, "float16"), rows(2).reshape(2, 15)):
            with pytest.raises(AssertionError, match="does not fit"):
                device[:2] = copies.upload(value)
        same(device, rows())


class TestConcatenation:
    @pytest.mark.parametrize("counts", [(1, 2), (3, 1, 4), (0, 2), (2, 0), (5,)], ids=str)
    @pytest.mark.parametrize("dtype", ["float16", "uint8"])
    def test_is_that_of_numpy(self, copies: Copies, counts: tuple[int, ...], dtype: str) -> None:
        arrays = [(rows(count) + 20 * i).astype(dtype) for i, count in enumerate(counts)]
        same(copies.concatenate([copies.upload(array) for array in arrays]), np.concatenate(arrays))

    def test_of_slices_in_another_order(self, copies: Copies) -> None:
        device = copies.upload(rows())
        same(copies.concatenate([device[4:], device[:2]]), np.concatenate([rows()[4:], rows()[:2]]))

    def test_of_what_does_not_fit_is_refused(self, copies: Copies) -> None:
        device = copies.upload(rows())
        for other in (rows().reshape(6, 15), rows(dtype="int64"), rows(dtype="float16")):
            with pytest.raises(AssertionError, match="cannot concatenate"):
                copies.concatenate([device, copies.upload(other)])


def test_an_interrupted_copy_has_ended_when_its_memory_is_free(copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped while a copy is still under way would be given to another stream: the double calls that a race."""
    from leo_edge.runtime.cuda import Stream

    queue = Stream.upload

    def interrupted(stream: Stream, pointer: int, source: int, num_bytes: int) -> None:
        queue(stream, pointer, source, num_bytes)
        raise KeyboardInterrupt

    monkeypatch.setattr(Stream, "upload", interrupted)
    with pytest.raises(KeyboardInterrupt):
        copies.upload(rows())
    monkeypatch.undo()
    other, made = Stream(), copies.empty((6, 3, 5), np.dtype(np.float32))
    other.clear(made.pointer, made.nbytes)
    other.wait()
    same(made, np.zeros((6, 3, 5), np.float32))
