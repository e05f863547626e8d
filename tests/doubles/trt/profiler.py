"""Who is told how long each layer took."""

from __future__ import annotations

import sys

from tests.doubles.trt.binding import Bound
from tests.doubles.trt.model import Model


class IProfiler(Bound):
    """Applications derive from it and call its constructor."""

    def report_layer_time(self, layer_name: str, ms: float) -> None:  # noqa: ARG002 - the real names
        """Takes the milliseconds of a layer."""
        raise RuntimeError('Tried to call pure virtual function "IProfiler::report_layer_time"')


def report_layers(profiler: IProfiler, model: Model) -> None:
    """Reports all layers; the times are the double's, 0.01 ms each."""
    for node in model.proto.graph.node:
        _report(profiler, node.name)


def _report(profiler: IProfiler, name: str) -> None:
    try:
        profiler.report_layer_time(name, 0.01)
    except Exception as error:  # noqa: BLE001 - as the bindings do
        print(f"[ERROR] Exception caught in report_layer_time(): {error}", file=sys.stderr)
