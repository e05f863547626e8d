"""The opset-20 cache in length buckets: rows of the past from the first new position on are not seen, whatever they hold."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from leo_edge.runtime.bundle import Bundle, open_bundle
from tests.conftest import MadeOnce

Arrays = dict[str, npt.NDArray[np.float32]]
PAST, BUCKET = 7, 16


class PlainLlm:
    """A bundle's language model as it is: the cache goes in and comes out."""

    def __init__(self, directory: Path) -> None:
        bundle: Bundle = open_bundle(directory)
        self.sizes, spec = bundle.manifest.decoder, bundle.manifest.graphs["llm"]
        self._session = onnxruntime.InferenceSession(str(bundle.path(spec.file)), providers=["CPUExecutionProvider"])
        self._names = [port.name for port in spec.outputs]
        random = np.random.default_rng(0)
        dims = {port.name: [dim for dim in port.shape if isinstance(dim, int)] for port in spec.inputs}
        self._routing = {
            name: random.standard_normal(dims[name]).astype(np.float32)
            for name in ("router_context", "use_special")
            if name in dims
        }

    def run(self, embeds: npt.NDArray[np.float32], first: int, past: Arrays) -> tuple[npt.NDArray[np.float32], Arrays]:
        """Returns the logits and the new rows of embeds [S, D] from position `first` on."""
        positions = np.arange(first, first + len(embeds), dtype=np.int64)
        given = {"embeds": embeds, "positions": positions, "logit_rows": np.array([len(embeds) - 1])}
        given |= {f"past_{name}": rows for name, rows in past.items()}
        logits, *rows = self._session.run(self._names, given | self._routing)
        return logits, dict(zip([name.removeprefix("new_") for name in self._names[1:]], rows, strict=True))

    def empty(self) -> Arrays:
        row = (0, self.sizes.num_kv_heads, self.sizes.head_dim)
        return {f"{part}.{i}": np.empty(row, np.float32) for part in ("key", "value") for i in range(self.sizes.num_layers)}


def padded(past: Arrays, seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    size = BUCKET - PAST
    return {
        n: np.concatenate([r, 10 * random.standard_normal((size, *r.shape[1:])).astype(np.float32)]) for n, r in past.items()
    }


@pytest.mark.parametrize("preset", ["leo-tiny", "leo-mini-tiny"])
@pytest.mark.parametrize("count", [1, 3])
def test_rows_behind_the_past_are_not_seen(tiny_bundles: MadeOnce, preset: str, count: int) -> None:
    llm = PlainLlm(tiny_bundles[preset])
    embeds = np.random.default_rng(1).standard_normal((PAST + count, llm.sizes.hidden_size)).astype(np.float32)
    _, past = llm.run(embeds[:PAST], 0, llm.empty())
    wanted, wanted_rows = llm.run(embeds[PAST:], PAST, past)
    for seed in (2, 3):
        logits, rows = llm.run(embeds[PAST:], PAST, padded(past, seed))
        np.testing.assert_allclose(logits, wanted, atol=1e-5 * np.abs(wanted).max())
        for name, row in wanted_rows.items():
            np.testing.assert_allclose(rows[name], row, atol=1e-4)
    seen, _ = llm.run(embeds[PAST:], BUCKET, padded(past, 2))  # the negative control: as if all rows were tokens
    assert np.abs(seen - wanted).max() > 1e-2 * np.abs(wanted).max()
