"""What a configuration has to compute and move, stage by stage, from counts of a few sizes of each graph.

The graphs are counted by a function that is handed in: FLOPs and bytes of one graph for given sizes of its dimensions. A
vision expert costs the same for every tile; the language model has a part per run, per token, and per token and key: two and
three counts say all of it, exactly.

Dimension letters as in the bundles' graphs: T tiles, I images, L question tokens, S new tokens, P past ones, C cache length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from leo_edge.runtime.manifest import DecoderManifest, ExpertManifest, FuseManifest
from leo_edge.runtime.tiles import TilingConfig

FRAME_SET, QUESTION, TOKEN = "frame set", "question", "token"
INT8, INT4 = "int8", "int4"
_INT4_BLOCK = 128  # weights that share a scale
_ROOM = 4  # past tokens, or room in the cache, of the first count


@dataclass(frozen=True)
class GraphWork:
    """One run of a graph: FLOPs, bytes of its weights as stored, bytes of its inputs and outputs."""

    flops: float
    weight_bytes: float
    port_bytes: float


Count = Callable[[str, Mapping[str, int]], GraphWork]


@dataclass(frozen=True)
class ModelFacts:
    """What of a bundle, or of a preset, decides the work.

    graphs: the symbolic dimensions of each graph's inputs. precisions: what its products are computed in.
    linear_parameters: weights of each graph that `quantize` would quantize; empty where they are quantized already.
    embedding_bytes: the table of token embeddings, kept in memory; float_bytes: of one number of the float type.
    """

    family: str
    experts: tuple[ExpertManifest, ...]
    tiling: TilingConfig
    fuse: FuseManifest
    decoder: DecoderManifest
    graphs: Mapping[str, tuple[str, ...]]
    precisions: Mapping[str, str]
    linear_parameters: Mapping[str, int]
    embedding_bytes: int
    float_bytes: int


@dataclass(frozen=True)
class Setting:
    """One way to run a model.

    tiles: of a camera, its thumbnail among them; encoded_cameras: those that are encoded anew for a set, at most.
    visual_tokens: of all cameras, as the prompt holds them; precision: None leaves the graphs as they are.
    cache_len: what an opset-24 cache has room for; None: the bundle's context length.
    """

    cameras: int
    encoded_cameras: int
    tiles: int
    visual_tokens: int
    text_tokens: int
    question_tokens: int
    answer_tokens: int
    precision: str | None = None
    image_px: tuple[int, ...] = (1600, 900)
    cache_len: int | None = None

    def __post_init__(self) -> None:
        for name in ("cameras", "encoded_cameras", "tiles", "visual_tokens", "text_tokens", "question_tokens", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.encoded_cameras > self.cameras:
            raise ValueError(f"encoded_cameras {self.encoded_cameras} are more than the {self.cameras} cameras")

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return self.visual_tokens + self.text_tokens


@dataclass(frozen=True)
class StageWork:
    """One run of a stage. `precision` is that of its products; None: the host does it, and moves bytes alone."""

    stage: str
    per: str
    precision: str | None
    flops: float
    moved_bytes: float


@dataclass(frozen=True)
class WorkCounter:
    """Counts settings of one model. What was counted of a graph once is kept."""

    facts: ModelFacts
    count: Count
    _kept: dict[tuple[str, tuple[tuple[str, int], ...]], GraphWork] = field(default_factory=dict)

    def stages(self, setting: Setting) -> tuple[StageWork, ...]:
        """Returns the work of every stage, in the order of the data. Decoding is that of a token in the answer's middle."""
        facts, tiles = self.facts, setting.encoded_cameras * setting.tiles
        sizes = self._sizes(setting)
        fuse_per = QUESTION if facts.fuse.uses_text else FRAME_SET
        work = [self._cutting(setting)]
        names = [f"vision.{expert.name}" for expert in facts.experts]
        work += [self._stage(name, FRAME_SET, self._per_tile(name, tiles), setting) for name in names]
        fuse = self._stage("fuse", fuse_per, self._once("fuse", sizes), setting)
        prompt_bytes = setting.prompt_tokens * facts.decoder.hidden_size * facts.float_bytes
        prompt = StageWork("prompt", QUESTION, None, 0, prompt_bytes)
        work += [prompt, fuse] if facts.fuse.uses_text else [fuse, prompt]
        if facts.decoder.routed:
            work.append(self._stage("router", QUESTION, self._once("router", sizes), setting))
        past = setting.prompt_tokens + setting.answer_tokens // 2
        work.append(self._stage("prefill", QUESTION, self._tokens(setting.prompt_tokens, 0, setting), setting, "llm"))
        work.append(self._stage("decode", TOKEN, self._tokens(1, past, setting), setting, "llm"))
        return tuple(work)

    def memory_bytes(self, setting: Setting) -> float:
        """Returns what weights, embedding table, cache and the largest inputs and outputs take."""
        decoder = self.facts.decoder
        cache = 2 * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim * decoder.context_len * self.facts.float_bytes
        tiles = setting.encoded_cameras * setting.tiles
        runs = {f"vision.{e.name}": self._per_tile(f"vision.{e.name}", tiles) for e in self.facts.experts}
        runs |= {name: self._once(name, self._sizes(setting)) for name in ("fuse", "router") if name in self.facts.graphs}
        runs["llm"] = self._tokens(setting.prompt_tokens, 0, setting)
        weights = sum(self._weight_bytes(name, run.weight_bytes, setting) for name, run in runs.items())
        return weights + self.facts.embedding_bytes + cache + max(run.port_bytes for run in runs.values())

    def precision(self, graph: str, setting: Setting) -> str:
        """Returns what a graph's products are computed in. INT4 weights of the language model are computed with in float."""
        if setting.precision in (INT8, INT4) and self.facts.linear_parameters.get(graph):
            return self.facts.precisions[graph] if (setting.precision, graph) == (INT4, "llm") else INT8
        return self.facts.precisions[graph]

    def _stage(self, stage: str, per: str, run: GraphWork, setting: Setting, graph: str | None = None) -> StageWork:
        graph = graph or stage
        moved = self._weight_bytes(graph, run.weight_bytes, setting) + run.port_bytes
        return StageWork(stage, per, self.precision(graph, setting), run.flops, moved)

    def _weight_bytes(self, graph: str, stored_bytes: float, setting: Setting) -> float:
        """Returns the bytes of a graph's weights in the setting's precision."""
        linear = self.facts.linear_parameters.get(graph, 0)
        if setting.precision not in (INT8, INT4):
            return stored_bytes
        each = 0.5 + self.facts.float_bytes / _INT4_BLOCK if (setting.precision, graph) == (INT4, "llm") else 1.0
        return stored_bytes - linear * (self.facts.float_bytes - each)

    def _cutting(self, setting: Setting) -> StageWork:
        image_bytes = 3 * setting.image_px[0] * setting.image_px[1]
        tile_bytes = 3 * setting.tiles * self.facts.tiling.tile_px**2
        return StageWork("tiles", FRAME_SET, None, 0, setting.encoded_cameras * (image_bytes + tile_bytes))

    def _sizes(self, setting: Setting) -> dict[str, int]:
        """Returns the sizes of fusion and router. Fusion before the question is of the cameras that are encoded."""
        fused = setting.cameras if self.facts.fuse.uses_text else setting.encoded_cameras
        visual = self.facts.fuse.num_tokens * setting.cameras * (setting.tiles if self.facts.fuse.unit == "tile" else 1)
        sizes = {"T": fused * setting.tiles, "I": fused, "L": setting.question_tokens, "V_all": visual}
        return sizes | {f"M_{expert.name}": setting.tiles * expert.num_tokens for expert in self.facts.experts}

    def _once(self, graph: str, sizes: Mapping[str, int]) -> GraphWork:
        key = (graph, tuple((name, sizes[name]) for name in self.facts.graphs[graph]))
        if key not in self._kept:
            self._kept[key] = self.count(graph, dict(key[1]))
        return self._kept[key]

    def _per_tile(self, graph: str, tiles: int) -> GraphWork:
        one, two = (self._once(graph, {"T": number}) for number in (1, 2))
        flops, port_bytes = two.flops - one.flops, two.port_bytes - one.port_bytes
        return GraphWork(one.flops + flops * (tiles - 1), one.weight_bytes, one.port_bytes + port_bytes * (tiles - 1))

    def _tokens(self, new: int, past: int, setting: Setting) -> GraphWork:
        """Counts the language model: FLOPs are a + b S + c S K, bytes d + e S + f R.

        K keys are S + P, R is P; where the cache is updated in place, both are C.
        """
        scatter = self.facts.decoder.cache == "scatter"

        def keys(num: int, room: int) -> int:
            return room if scatter else room + num

        def run(num: int, room: int) -> GraphWork:
            return self._once("llm", {"S": num, "Q": 1, "P": room, "C": room})

        first, token, key = run(1, _ROOM), run(2, _ROOM), run(1, _ROOM + 1)
        c = key.flops - first.flops
        b = token.flops - first.flops - c * (2 * keys(2, _ROOM) - keys(1, _ROOM))
        a = first.flops - b - c * keys(1, _ROOM)
        room = (setting.cache_len or self.facts.decoder.context_len) if scatter else past
        token_bytes, key_bytes = token.port_bytes - first.port_bytes, key.port_bytes - first.port_bytes
        ports = first.port_bytes + token_bytes * (new - 1) + key_bytes * (room - _ROOM)
        return GraphWork(a + b * new + c * new * keys(new, room), first.weight_bytes, ports)
