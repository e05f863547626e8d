"""How sensitive an answer is to errors at visual and at text tokens, measured activation by activation.

MBQ (S. Li et al., arXiv 2412.19509) weighs a layer's reconstruction error by the gradient of the loss at its output, averaged
over the tokens of each modality. Here no gradient is at hand: Gaussian noise of variance v is added to an activation at the
tokens of one modality, and the Kullback-Leibler divergence of the next token's distribution is measured. For small noise its
mean is v/2 times the trace of the Fisher information over the n values that were changed, so 2 KL / (n v) is what a squared
error of one value does, which is the weight that a squared error should have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from leo_edge.calib.layers import smooth_groups
from leo_edge.calib.observe import Forced, llm_inputs
from leo_edge.calib.ports import numpy_name
from leo_edge.calib.statistics import Statistics
from leo_edge.calib.table import Key
from leo_edge.runtime.backend import Array, Logits
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.manifest import TensorSpec
from leo_edge.runtime.ort import OrtSession

_NOISE = 0.05  # of the activation's root mean square


class NoisyLlm:
    """The language model with an input for noise at each activation that can be smoothed."""

    def __init__(self, bundle: Bundle, *, threads: int = 0) -> None:
        """Opens it.

        Raises:
            BackendError: onnxruntime refuses the graph.
        """
        spec = bundle.manifest.graphs["llm"]
        self._decoder = bundle.manifest.decoder
        path = bundle.path(spec.file)
        model = ir.load(path)
        self.widths: dict[str, int] = {}
        ports = []
        values = {value.name: value for node in model.graph for value in node.outputs}
        for group in smooth_groups("llm", model, self._decoder):
            value = values[group.input]
            weight = model.graph.initializers[group.consumers[0]]
            assert weight.shape is not None
            assert value.dtype is not None
            self.widths[group.input] = int(weight.shape[0])  # type: ignore[arg-type]
            noise = ir.Value(
                name=f"noise.{group.input}", shape=ir.Shape(["S", self.widths[group.input]]), type=ir.TensorType(value.dtype)
            )
            added = ir.node("Add", [value, noise], name=f"noise.{group.input}.add")
            added.outputs[0].name, added.outputs[0].type, added.outputs[0].shape = (
                f"{group.input}.noisy",
                value.type,
                value.shape,
            )
            for node, place in list(value.uses()):
                node.replace_input_with(place, added.outputs[0])
            added.replace_input_with(0, value)
            model.graph.append(added)
            model.graph.inputs.append(noise)
            ports.append(TensorSpec(str(noise.name), numpy_name(value), ("S", self.widths[group.input])))
        model.graph.sort()
        self._dtype = ports[0].dtype if ports else "float32"
        observed = replace(spec, inputs=(*spec.inputs, *ports))
        self._session = OrtSession(path, observed, threads=threads, model=ir.to_proto(model).SerializeToString())

    def logits(self, sequence: Forced, noise: Mapping[str, Array]) -> npt.NDArray[np.float64]:
        """Returns the logits [V] after a sequence, with noise [S, K] at some activations."""
        inputs = llm_inputs(self._decoder, sequence.embeds, sequence.routing)
        for name, width in self.widths.items():
            given = noise.get(name)
            inputs[f"noise.{name}"] = np.zeros((len(sequence.embeds), width), self._dtype) if given is None else given
        logits: Logits = self._session.run(inputs)["logits"][0]
        return logits.astype(np.float64)


def measure(
    llm: NoisyLlm, sequences: Sequence[Forced], statistics: Mapping[Key, Statistics], seed: int = 0
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yields for each activation what a squared error at a visual and at a text token does to the answer."""
    random = np.random.default_rng(seed)
    exact = [llm.logits(sequence, {}) for sequence in sequences]
    for name, width in llm.widths.items():
        step = _NOISE * _root_mean_square(statistics["llm", name])
        found = []
        for visual in (True, False):
            damage, count = 0.0, 0
            for sequence, wanted in zip(sequences, exact, strict=True):
                rows = sequence.is_visual == visual
                noise = np.zeros((len(rows), width))
                noise[rows] = step * random.standard_normal((int(rows.sum()), width))
                damage += divergence(wanted, llm.logits(sequence, {name: noise.astype(sequence.embeds.dtype)}))
                count += int(rows.sum()) * width
            found.append(2 * damage / max(count * step * step, 1e-30))
        yield name, (found[0], found[1])


def divergence(wanted: npt.NDArray[np.float64], got: npt.NDArray[np.float64]) -> float:
    """KL(softmax(wanted) | softmax(got)) of logits [V], in nats."""
    p, q = (logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()) for logits in (wanted, got))
    return max(0.0, float((np.exp(p) * (p - q)).sum()))


def _root_mean_square(one: Statistics) -> float:
    counts = one.histogram.counts
    return float(np.sqrt((counts * one.histogram.centres**2).sum() / max(counts.sum(), 1)))
