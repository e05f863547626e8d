"""runtime/ort.py: graphs run as the manifest says, and the cache of both levels is written in place.

The language models here are tiny: of each cached row they keep a multiple of the embedding, and their logits are the sum of all
rows, each times its place. So every row that is lost, doubled, moved or of another layer shows, and all numbers are whole.

Shape letters: S new tokens, P past tokens, L = P + S, Q rows whose logits are wanted, C cache capacity; 2 key-value heads of
width 3, hidden and vocabulary 6.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import parser
from safetensors import numpy as safetensors_numpy

from leo_edge.runtime.backend import Array, Decoder, FloatArray
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.errors import BackendError, BundleError, ContextOverflowError
from leo_edge.runtime.manifest import DecoderManifest, GraphSpec, TensorSpec
from leo_edge.runtime.ort import OrtSession, describe_backend, open_decoder
from leo_edge.runtime.ort_decoder import PrefixDecoder, ScatterDecoder
from tests.runtime.test_manifest import small_manifest

# 1.23 is the last for Python 3.10.
needs_scatter = pytest.mark.skipif(
    tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) < (1, 25),
    reason=f"onnxruntime {onnxruntime.__version__} has no TensorScatter on the CPU: 1.25 is the first",
)
HEADS, WIDTH = 2, 3
HIDDEN = HEADS * WIDTH
# By what each cache multiplies the embedding, and by what the logits multiply the cache.
FACTORS = {"key.0": 1, "key.1": 2, "value.0": 3, "value.1": 4}
WEIGHTS = {"key.0": 1, "key.1": 2, "value.0": 1, "value.1": 2}
TABLE = (np.arange(6 * HIDDEN).reshape(6, HIDDEN) * 7 % 5).astype(np.float32)

PREFIX_LAYER = """
  "typed.{name}" = CastLike("factor.{name}", embeds)
  "rows.{name}" = Mul(embeds, "typed.{name}")
  "new_{name}" = Reshape("rows.{name}", row_shape)
  "all.{name}" = Concat<axis=0>("past_{name}", "new_{name}")
"""
SCATTER_LAYER = """
  "typed.{name}" = CastLike("factor.{name}", embeds)
  "rows.{name}" = Mul(embeds, "typed.{name}")
  "split.{name}" = Reshape("rows.{name}", row_shape)
  "turned.{name}" = Transpose<perm=[1, 0, 2]>("split.{name}")
  "update.{name}" = Unsqueeze("turned.{name}", zero)
  "new_{name}" = TensorScatter<axis=-2>("past_{name}", "update.{name}", start)
  "whole.{name}" = Squeeze("new_{name}", zero)
  "all.{name}" = Transpose<perm=[1, 0, 2]>("whole.{name}")
"""
SUM = """
  "flat.{name}" = Reshape("all.{name}", flat_shape)
  "wide.{name}" = Cast<to=1>("flat.{name}")
  "sum.{name}" = MatMul(places, "wide.{name}")
  "part.{name}" = Mul("sum.{name}", "weight.{name}")
"""
GRAPH = """
<ir_version: 10, opset_import: ["" : {opset}]>
llm ({inputs}) => ({outputs})
<int64[3] row_shape = {{-1, 2, 3}}, int64[2] flat_shape = {{-1, 6}}, int64[1] zero = {{0}}, int64[1] one = {{1}},
 int64 zeroth = {{0}}, int64 first = {{1}}, {constants}>
{{
  start = Slice(positions, zero, one)
  ends = Gather(positions, logit_rows)
  end = Unsqueeze(ends, one)
{layers}
  length = Shape<start=0, end=1>("all.key.0")
  length_scalar = Squeeze(length, zero)
  slots = Range(zeroth, length_scalar, first)
  seen = LessOrEqual(slots, end)
  counted = Add(slots, one)
  nothing = Mul(counted, zeroth)
  masked = Where(seen, counted, nothing)
  places = Cast<to=1>(masked)
{sums}
  total = Sum({parts})
  wide_end = Cast<to=1>(end)
  wide_bias = Cast<to=1>(bias)
  logits = Sum(total, wide_end, wide_bias)
}}
"""


def llm_text(kind: str, element: str) -> str:
    past, new = ("P, 2, 3", "S, 2, 3") if kind == "prefix" else ("1, 2, C, 3", "1, 2, C, 3")
    inputs = [
        f"{element}[S, 6] embeds",
        "int64[S] positions",
        "int64[Q] logit_rows",
        *(f'{element}[{past}] "past_{name}"' for name in FACTORS),
    ]
    constants = [f'float "factor.{name}" = {{{factor}}}' for name, factor in FACTORS.items()]
    constants += [f'float "weight.{name}" = {{{weight}}}' for name, weight in WEIGHTS.items()]
    layer = PREFIX_LAYER if kind == "prefix" else SCATTER_LAYER
    return GRAPH.format(
        opset=20 if kind == "prefix" else 24,
        inputs=", ".join([*inputs, f"{element}[1] bias"]),
        outputs=", ".join(["float[Q, 6] logits", *(f'{element}[{new}] "new_{name}"' for name in FACTORS)]),
        constants=", ".join(constants),
        layers="".join(layer.format(name=name) for name in FACTORS),
        sums="".join(SUM.format(name=name) for name in FACTORS),
        parts=", ".join(f'"part.{name}"' for name in FACTORS),
    )


def port(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return TensorSpec(value.name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name, shape)


def write_graph(text: str, path: Path) -> GraphSpec:
    model = parser.parse_model(text)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    inputs, outputs = (tuple(port(value) for value in values) for values in (model.graph.input, model.graph.output))
    return GraphSpec(path.name, None, inputs, outputs, num_parameters=0)


def with_ports(spec: GraphSpec, part: str, ports: Sequence[TensorSpec]) -> GraphSpec:
    return replace(spec, inputs=tuple(ports)) if part == "inputs" else replace(spec, outputs=tuple(ports))


Open = Callable[..., PrefixDecoder | ScatterDecoder]


@pytest.fixture
def open_llm(tmp_path: Path) -> Open:
    """Opens a tiny language model from its file, as a bundle would be opened."""

    def open_one(kind: str, *, context_len: int = 8, float_type: str = "float32") -> PrefixDecoder | ScatterDecoder:
        spec = write_graph(llm_text(kind, {"float32": "float", "float16": "float16"}[float_type]), tmp_path / "llm.onnx")
        safetensors_numpy.save_file({"embedding": TABLE.astype(float_type)}, tmp_path / "e.safetensors")
        decoder = DecoderManifest(kind, 2, HEADS, WIDTH, HIDDEN, len(TABLE), context_len=context_len, routed=False)
        manifest = small_manifest()
        graphs = dict(manifest.graphs) | {"llm": spec}
        bundle = Bundle(tmp_path, replace(manifest, graphs=graphs, cpu_forms={}, decoder=decoder, float_type=float_type), "id")
        opened = open_decoder(bundle, EmbeddingTable(tmp_path / "e.safetensors"), threads=1)
        assert isinstance(opened, PrefixDecoder | ScatterDecoder)
        return opened

    return open_one


def expected(rows: Array, bias: float = 0) -> Array:
    """Logits after all rows [L, 6] of prompt and answer."""
    gain = sum(FACTORS[name] * WEIGHTS[name] for name in FACTORS)
    return gain * np.arange(1, len(rows) + 1) @ rows.astype(np.float64) + len(rows) - 1 + bias


def prompt(length: int, seed: int = 0, dtype: Any = np.float32) -> FloatArray:
    rows: npt.NDArray[Any] = np.random.default_rng(seed).integers(0, 5, (length, HIDDEN)).astype(dtype)
    return rows


def bias(value: float, dtype: Any = np.float32) -> dict[str, Array]:
    return {"bias": np.full(1, value, dtype)}


def addresses(decoder: PrefixDecoder | ScatterDecoder) -> dict[str, int]:
    return {name: buffer.data_ptr() for name, buffer in decoder._buffers.items()}


def cached(decoder: PrefixDecoder | ScatterDecoder, name: str, length: int) -> Array:
    """The first rows of a cache as [L, 6]."""
    buffer: Array = decoder._buffers[name].numpy()
    rows = buffer[:length] if isinstance(decoder, PrefixDecoder) else buffer[0, :, :length].transpose(1, 0, 2)
    return rows.reshape(length, HIDDEN)


class TestSession:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    add (float[N, 2] a, float[N, 2] b) => (float[N, 2] total, float[N, 2] difference)
    { total = Add(a, b)  difference = Sub(a, b) }
    """
    a, b = np.array([[1, 2], [3, 4]], np.float32), np.array([[5, 6], [7, 9]], np.float32)

    @pytest.fixture
    def spec(self, tmp_path: Path) -> GraphSpec:
        return write_graph(self.text, tmp_path / "add.onnx")

    def test_arrays_go_in_and_come_out_by_name(self, tmp_path: Path, spec: GraphSpec) -> None:
        outputs = OrtSession(tmp_path / "add.onnx", spec, threads=1).run({"b": self.b, "a": self.a})
        np.testing.assert_array_equal(outputs["total"], self.a + self.b)
        np.testing.assert_array_equal(outputs["difference"], self.a - self.b)
        assert list(outputs) == ["total", "difference"]

    @pytest.mark.parametrize(
        ("part", "index", "wanted", "text"),
        [
            ("inputs", 0, TensorSpec("x", "float32", ("N", 2)), r"\('a', .*\) is not \('x', "),
            ("inputs", 1, TensorSpec("b", "float16", ("N", 2)), r"tensor\(float\)', .* is not .*tensor\(float16\)"),
            ("inputs", 1, TensorSpec("b", "bfloat16", ("N", 2)), r"is not \('b', 'bfloat16'"),
            ("inputs", 0, TensorSpec("a", "float32", ("N", 3)), r"\['N', 2\]\) is not .*\['N', 3\]"),
            ("inputs", 0, TensorSpec("a", "float32", ("T", 2)), r"\['N', 2\]\) is not .*\['T', 2\]"),
            ("outputs", 1, TensorSpec("sum", "float32", ("N", 2)), r"\('difference', .*\) is not \('sum', "),
        ],
    )
    def test_a_port_that_is_not_the_manifests(
        self, tmp_path: Path, spec: GraphSpec, part: str, index: int, wanted: TensorSpec, text: str
    ) -> None:
        ports = list(getattr(spec, part))
        ports[index] = wanted
        with pytest.raises(BundleError, match=rf"add\.onnx does not fit the manifest: .*{text}.*: export the bundle again"):
            OrtSession(tmp_path / "add.onnx", with_ports(spec, part, ports))

    @pytest.mark.parametrize("part", ["inputs", "outputs"])
    def test_another_number_of_ports(self, tmp_path: Path, spec: GraphSpec, part: str) -> None:
        ports = list(getattr(spec, part))
        for wrong in (ports[:1], [*ports, ports[0]]):
            with pytest.raises(BundleError, match="does not fit the manifest: their number differs"):
                OrtSession(tmp_path / "add.onnx", with_ports(spec, part, wrong))

    @pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x0a" + bytes(100), None])
    def test_a_file_that_is_no_graph(self, tmp_path: Path, spec: GraphSpec, content: bytes | None) -> None:
        path = tmp_path / "broken.onnx"
        path.write_bytes((tmp_path / "add.onnx").read_bytes()[:-20] if content is None else content)
        with pytest.raises(BackendError, match=r"^onnxruntime [\d.]+ cannot load .*broken\.onnx: .+$"):
            OrtSession(path, spec)

    def test_an_operator_of_another_domain(self, tmp_path: Path) -> None:
        text = self.text.replace('["" : 20]', '["" : 20, "vendor" : 1]').replace("Sub(", "vendor.Sub(")
        model = parser.parse_model(text)
        (tmp_path / "vendor.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(BackendError, match=r"cannot load .*vendor"):
            OrtSession(tmp_path / "vendor.onnx", GraphSpec("vendor.onnx", None, (), (), 0))

    @pytest.mark.parametrize(
        "inputs",
        [
            {"a": a},
            {"a": a, "b": b, "c": b},
            {"a": a, "b": b.astype(np.float64)},
            {"a": a, "b": b[:, :1]},
            {"a": a, "b": np.ones((3, 2), np.float32)},
        ],
    )
    def test_wrong_inputs(self, tmp_path: Path, spec: GraphSpec, inputs: dict[str, Array]) -> None:
        with pytest.raises(BackendError, match=r"^onnxruntime failed: .+$"):
            OrtSession(tmp_path / "add.onnx", spec).run(inputs)

    def test_backend_names_itself(self) -> None:
        assert describe_backend().startswith("onnxruntime 1.")


@pytest.mark.parametrize("kind", ["prefix", pytest.param("scatter", marks=needs_scatter)])
class TestDecoder:
    @pytest.mark.parametrize("float_type", ["float32", "float16"])
    def test_logits_equal_a_recomputation_at_every_step(self, open_llm: Open, kind: str, float_type: str) -> None:
        decoder: Decoder = open_llm(kind, context_len=12, float_type=float_type)
        rows = prompt(5, dtype=float_type)
        np.testing.assert_array_equal(decoder.prefill(rows, bias(0, float_type)), expected(rows))
        for token_id in (3, 0, 5, 5, 1, 2, 4):
            logits = decoder.step(token_id)
            forgotten, rows = rows[:0], np.concatenate([rows, TABLE[token_id : token_id + 1].astype(float_type)])
            np.testing.assert_array_equal(logits, expected(rows))
            assert logits.dtype == np.float32
            assert not np.array_equal(logits, expected(np.concatenate([forgotten, rows[-1:]])))
        assert len(rows) == decoder.context_len

    def test_the_past_stays_where_it_is(self, open_llm: Open, kind: str) -> None:
        decoder = open_llm(kind)
        decoder.prefill(prompt(3), bias(0))
        before, first_rows = addresses(decoder), cached(decoder, "value.1", 3).copy()
        for token_id in (1, 2, 3):
            decoder.step(token_id)
        rows = np.concatenate([prompt(3), TABLE[1:4]])
        assert addresses(decoder) == before
        assert len(set(before.values())) == len(FACTORS)
        np.testing.assert_array_equal(cached(decoder, "value.1", 3), first_rows)
        for name, factor in FACTORS.items():
            np.testing.assert_array_equal(cached(decoder, name, 6), factor * rows)

    def test_a_second_prefill_forgets_the_first(self, open_llm: Open, kind: str) -> None:
        decoder = open_llm(kind)
        decoder.prefill(prompt(6, seed=1), bias(0))
        decoder.step(4)
        np.testing.assert_array_equal(decoder.prefill(prompt(2), bias(0)), expected(prompt(2)))
        rows = np.concatenate([prompt(2), TABLE[4:5]])
        np.testing.assert_array_equal(decoder.step(4), expected(rows))

    def test_several_tokens_in_one_run_are_as_many_steps(self, open_llm: Open, kind: str) -> None:
        decoder = open_llm(kind)
        decoder.prefill(prompt(2), bias(0))
        rows = np.concatenate([prompt(2), TABLE[[4, 1, 5]]])
        logits = decoder.extend((4, 1, 5))
        np.testing.assert_array_equal(logits, [expected(rows[:length]) for length in (3, 4, 5)])
        assert decoder.length == 5

    def test_what_was_rewound_is_forgotten(self, open_llm: Open, kind: str) -> None:
        decoder = open_llm(kind)
        decoder.prefill(prompt(2), bias(0))
        decoder.extend((4, 1, 5))
        decoder.rewind(3)
        np.testing.assert_array_equal(decoder.step(2), expected(np.concatenate([prompt(2), TABLE[[4, 2]]])))
        with pytest.raises(ValueError, match="cannot rewind to 5 of 4 tokens"):
            decoder.rewind(5)

    def test_what_is_kept_of_a_prompt_is_not_computed_again(self, open_llm: Open, kind: str) -> None:
        decoder = open_llm(kind)
        decoder.prefill(prompt(4), bias(0), label="first")
        decoder.step(1)
        longer = np.concatenate([prompt(4)[:3], prompt(3, seed=1)])
        np.testing.assert_array_equal(decoder.prefill(longer, bias(0), keep=3, label="second"), expected(longer))
        assert (decoder.label, decoder.length) == ("second", 6)
        # The control: what is kept is taken on trust.
        other = prompt(6, seed=2)
        mixed = np.concatenate([longer[:3], other[3:]])
        np.testing.assert_array_equal(decoder.prefill(other, bias(0), keep=3), expected(mixed))
        assert decoder.label is None
        assert not np.array_equal(expected(mixed), expected(other))

    @pytest.mark.parametrize("keep", [-1, 4, 5])
    def test_no_more_can_be_kept_than_there_is(self, open_llm: Open, kind: str, keep: int) -> None:
        decoder = open_llm(kind)
        decoder.prefill(prompt(4), bias(0))
        with pytest.raises(ValueError, match=f"keep must be 0 to 4, and less than the prompt's 4 tokens, got {keep}"):
            decoder.prefill(prompt(4), bias(0), keep=keep)

    def test_logits_are_the_callers_own(self, open_llm: Open, kind: str) -> None:
        decoder = open_llm(kind)
        first = decoder.prefill(prompt(2), bias(0))
        decoder.step(1)
        np.testing.assert_array_equal(first, expected(prompt(2)))

    def test_routing_is_kept_until_the_next_prefill(self, open_llm: Open, kind: str) -> None:
        decoder = open_llm(kind)
        decoder.prefill(prompt(2), bias(7))
        rows = np.concatenate([prompt(2), TABLE[1:2]])
        np.testing.assert_array_equal(decoder.step(1), expected(rows, 7))
        np.testing.assert_array_equal(decoder.prefill(prompt(2), bias(9)), expected(prompt(2), 9))

    def test_arrays_need_not_be_contiguous(self, open_llm: Open, kind: str) -> None:
        rows = np.asfortranarray(prompt(4))
        np.testing.assert_array_equal(open_llm(kind).prefill(rows, bias(0)), expected(rows))

    def test_a_prompt_beyond_the_context(self, open_llm: Open, kind: str) -> None:
        decoder = open_llm(kind, context_len=8)
        with pytest.raises(ContextOverflowError, match=r"9 tokens do not fit the context of 8: .*--context-len 9$"):
            decoder.prefill(prompt(9), bias(0))
        np.testing.assert_array_equal(decoder.prefill(prompt(8), bias(0)), expected(prompt(8)))

    def test_a_step_beyond_the_context(self, open_llm: Open, kind: str) -> None:
        decoder = open_llm(kind, context_len=4)
        decoder.prefill(prompt(3), bias(0))
        decoder.step(1)
        for _ in range(2):
            with pytest.raises(ContextOverflowError, match="5 tokens do not fit the context of 4"):
                decoder.step(1)
        np.testing.assert_array_equal(decoder.prefill(prompt(3), bias(0)), expected(prompt(3)))

    def test_embeddings_of_another_width(self, open_llm: Open, kind: str) -> None:
        with pytest.raises(BackendError, match=r"^onnxruntime failed: .+"):
            open_llm(kind).prefill(prompt(3)[:, :5], bias(0))

    def test_routing_that_is_missing(self, open_llm: Open, kind: str) -> None:
        with pytest.raises(BackendError, match=r"^onnxruntime failed: .+"):
            open_llm(kind).prefill(prompt(3), {})

    def test_routing_that_the_graph_does_not_know(self, open_llm: Open, kind: str) -> None:
        with pytest.raises(BackendError, match=r"^onnxruntime failed: .+"):
            open_llm(kind).prefill(prompt(3), bias(0) | {"use_special": np.ones(1, np.float32)})

    def test_the_manifest_says_which_cache(self, open_llm: Open, kind: str) -> None:
        assert isinstance(open_llm(kind), {"prefix": PrefixDecoder, "scatter": ScatterDecoder}[kind])


@needs_scatter
class TestBuckets:
    def capacity(self, decoder: PrefixDecoder | ScatterDecoder) -> int:
        (capacity,) = {buffer.shape()[2] for buffer in decoder._buffers.values()}
        return int(capacity)

    def answer(self, decoder: Decoder, tokens: Sequence[int], rows: FloatArray) -> FloatArray:
        """Steps through tokens, comparing each time; returns all rows."""
        for token_id in tokens:
            rows = np.concatenate([rows, TABLE[token_id : token_id + 1]])
            np.testing.assert_array_equal(decoder.step(token_id), expected(rows))
        return rows

    def test_grows_while_it_answers_and_keeps_what_it_has(self, open_llm: Open) -> None:
        decoder = open_llm("scatter", context_len=600)
        rows = prompt(254)
        decoder.prefill(rows, bias(0))
        before = addresses(decoder)
        rows = self.answer(decoder, [1, 2], rows)
        assert (self.capacity(decoder), addresses(decoder)) == (256, before)
        rows = self.answer(decoder, [3, 4, 5], rows)
        assert self.capacity(decoder) == 512
        assert not addresses(decoder).items() & before.items()
        for name, factor in FACTORS.items():
            np.testing.assert_array_equal(cached(decoder, name, 259), factor * rows)

    def test_grows_for_a_prompt_up_to_the_context_and_stays(self, open_llm: Open) -> None:
        decoder = open_llm("scatter", context_len=600)
        rows = prompt(598)
        np.testing.assert_array_equal(decoder.prefill(rows, bias(0)), expected(rows))
        assert self.capacity(decoder) == 600
        self.answer(decoder, [1, 2], rows)
        np.testing.assert_array_equal(decoder.prefill(prompt(3), bias(0)), expected(prompt(3)))
        assert self.capacity(decoder) == 600

    def test_a_small_context_is_the_only_bucket(self, open_llm: Open) -> None:
        assert self.capacity(open_llm("scatter", context_len=8)) == 8

    def test_a_prompt_that_overflowed_does_not_spoil_the_next(self, open_llm: Open) -> None:
        """Masked values must be finite: nothing times NaN is NaN."""
        decoder = open_llm("scatter", context_len=600)
        decoder.prefill(np.full_like(prompt(20), np.nan), bias(0))
        np.testing.assert_array_equal(decoder.prefill(prompt(3), bias(0)), expected(prompt(3)))
        assert all(np.isfinite(buffer).all() for buffer in decoder._buffers.values())

    def test_new_room_is_finite(self, open_llm: Open) -> None:
        decoder = open_llm("scatter", context_len=600)
        decoder.prefill(prompt(300), bias(0))
        assert all(np.isfinite(buffer).all() for buffer in decoder._buffers.values())
