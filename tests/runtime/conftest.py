"""Fixtures of the runtime's tests: an imaginary machine with TensorRT, and bundles for it."""

from tests.doubles.fixtures import edge_machine
from tests.runtime.trt_bundles import small_bundles

__all__ = ["edge_machine", "small_bundles"]
