"""The optimization profiles of a bundle's graphs: for which sizes TensorRT chooses its kernels, and for which it runs at all.

A profile gives every symbolic dimension a least, a likeliest and a largest size; kernels are chosen for the likeliest. Symbols
are those of the graphs: T tiles, I images, M_<expert> tokens of one expert per image, L tokens of the question, S new tokens,
P past tokens, Q new tokens whose logits are wanted, C cache capacity, V_all visual tokens of the prompt; H, W a camera's image,
Y, X its grid, in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from leo_edge.runtime.engines import Profile, Shape
from leo_edge.runtime.errors import BundleError, LeoEdgeError
from leo_edge.runtime.frames import NUSCENES_CAMERAS, NUSCENES_PX
from leo_edge.runtime.manifest import BundleManifest, GraphSpec
from leo_edge.runtime.tiles import TilingConfig, choose_grid, num_tiles

Range = tuple[int, int, int]  # least, likeliest, largest
Symbols = Mapping[str, Range]

TILES_GRAPH = "tiles"
# What a rig is taken for where nothing is said: nuScenes's cameras (https://www.nuscenes.org/nuscenes#data-collection).
NUM_CAMERAS = len(NUSCENES_CAMERAS)
# The decoder takes a prompt in pieces of at most this many tokens: attention's scores take pieces x context.
PREFILL_TOKENS = 512
# Logits that one run gives at most: what an answer drafts ahead of itself is no longer.
MOST_LOGIT_ROWS = 16
_FIRST_BUCKET = 256
_LIKELY_QUESTION_TOKENS = 32
_UNBOUNDED = 1 << 30


@dataclass(frozen=True)
class ProfileOptions:
    """What the engines are to be good for.

    context: the most tokens, prompt and answer together.
    tiles: least, likeliest and most tiles that a vision expert takes at once, by its graph.
    camera_px: width and height of the cameras' images, for the graph that cuts tiles; None: the host cuts them.
    """

    context: int
    tiles: Mapping[str, Range]
    camera_px: tuple[int, int] | None = None


def profile_options(
    manifest: BundleManifest,
    *,
    context: int | None = None,
    tiles: Range | None = None,
    camera_px: tuple[int, int] | None = None,
    at_once: Callable[[str], int] = lambda _: _UNBOUNDED,
) -> ProfileOptions:
    """Fills in what was not asked for: the bundle's whole context, and the tiles of six cameras of 1600 x 900 pixels.

    `at_once` says how many tiles a vision graph has memory for at once; without `tiles` it takes no more.

    Raises:
        LeoEdgeError: more is asked for than the bundle can do, or the sizes are none.
    """
    most = manifest.decoder.context_len
    context = most if context is None else context
    if not 2 <= context <= most:
        raise LeoEdgeError(
            f"--context must be 2 to {most}, the tokens that the bundle was exported for, got {context}: "
            "export again with a larger --context-len for more"
        )
    if tiles is not None and not 1 == tiles[0] <= tiles[1] <= tiles[2]:
        raise LeoEdgeError(
            "--profile-tiles must be least, likeliest and most tiles, ascending from 1 (one tile may be left over), "
            f"got {','.join(map(str, tiles))}"
        )
    all_tiles = NUM_CAMERAS * _likely_tiles(manifest.tiling)
    ranges = {}
    for expert in manifest.experts:
        graph = f"vision.{expert.name}"
        most_tiles = max(1, min(all_tiles, at_once(graph))) if tiles is None else 0
        ranges[graph] = tiles or (1, most_tiles, most_tiles)
    if camera_px is not None and min(camera_px) < 1:
        raise LeoEdgeError(f"--camera-size must be at least 1x1 pixels, got {camera_px[0]}x{camera_px[1]}")
    return ProfileOptions(context, ranges, camera_px)


def profiles_of(manifest: BundleManifest, graph: str, options: ProfileOptions) -> tuple[Profile, ...]:
    """Returns a graph's profiles: of the language model one for prefill and the others for decoding, else one.

    Only inputs that have a symbolic dimension are in a profile.

    Raises:
        BundleError: the graph has a dimension that this leo_edge does not know.
    """
    spec = manifest.graphs[graph]
    return tuple(_profile(graph, spec, symbols) for symbols in _symbols_of(manifest, graph, options))


def length_buckets(context: int) -> tuple[int, ...]:
    """Returns the lengths of the past that decoding is built for: 256, 512, 1024 and so on, and the whole context.

    The runtime lets the past reach up to the next of them, masked where no token is, so that shapes stay the same from token to
    token, as a CUDA graph needs them.
    """
    buckets = [context]
    length = _FIRST_BUCKET
    while length < context:
        buckets.append(length)
        length *= 2
    return tuple(sorted(buckets))


def _symbols_of(manifest: BundleManifest, graph: str, options: ProfileOptions) -> list[Symbols]:
    """Returns the sizes of a graph's symbolic dimensions, profile by profile."""
    if graph == "llm":
        return _decoder_symbols(manifest, options.context)
    if graph == TILES_GRAPH:
        return [_camera_symbols(manifest.tiling, options)]
    question = (1, min(_LIKELY_QUESTION_TOKENS, options.context), options.context)
    if graph == "fuse":
        return [_fuse_symbols(manifest) | {"L": question}]
    if graph == "router":
        return [{"V_all": _visual_tokens(manifest), "L": question}]
    return [{"T": options.tiles[graph]}]


def _fuse_symbols(manifest: BundleManifest) -> dict[str, Range]:
    """LEO fuses the tiles of a camera; LEO-MINI images, one to all of a set, over all tokens of each."""
    likely, most = _likely_tiles(manifest.tiling), _most_tiles(manifest.tiling)
    if manifest.fuse.unit == "tile":
        return {"T": (1, likely, most)}
    tokens = {
        f"M_{expert.name}": (expert.num_tokens, expert.num_tokens * likely, expert.num_tokens * most)
        for expert in manifest.experts
    }
    return {"I": (1, NUM_CAMERAS, NUM_CAMERAS), **tokens}


def _visual_tokens(manifest: BundleManifest) -> Range:
    per_unit = manifest.fuse.num_tokens
    likely = per_unit * (_likely_tiles(manifest.tiling) if manifest.fuse.unit == "tile" else 1)
    return 1, NUM_CAMERAS * likely, NUM_CAMERAS * manifest.fuse.most_tokens(manifest.tiling)


def _decoder_symbols(manifest: BundleManifest, context: int) -> list[Symbols]:
    """Prefill, then decoding.

    A cache that grows ("prefix") has a decode profile per length bucket. One that is updated in place ("scatter") has its
    capacity in the graph, as TensorRT's update of a cache wants it.
    """
    new = (1, min(PREFILL_TOKENS, context), min(PREFILL_TOKENS, context))
    one, rows = (1, 1, 1), (1, 1, min(MOST_LOGIT_ROWS, context))
    if manifest.decoder.cache == "scatter":
        capacity = (context, context, context)
        return [{"S": new, "Q": rows, "C": capacity}, {"S": one, "Q": one, "C": capacity}]
    prefill = {"S": new, "Q": rows, "P": (0, min(PREFILL_TOKENS, context - 1), context - 1)}
    return [prefill, *({"S": one, "Q": one, "P": (length, length, length)} for length in length_buckets(context))]


def _camera_symbols(tiling: TilingConfig, options: ProfileOptions) -> dict[str, Range]:
    """An image of one size, cut into any grid: that of the tiling, smaller ones when time is short, one tile as thumbnail."""
    if options.camera_px is None:
        raise LeoEdgeError(f"graph {TILES_GRAPH} is built for one size of image: give --camera-size WxH")
    width, height = options.camera_px
    likely, side = choose_grid(width, height, tiling), tiling.tile_px
    grids = [choose_grid(width, height, tiling.at_most(most)) for most in range(1, tiling.max_tiles + 1)]
    return {
        "H": (height, height, height),
        "W": (width, width, width),
        "Y": (side, likely.rows * side, max(grid.rows for grid in grids) * side),
        "X": (side, likely.cols * side, max(grid.cols for grid in grids) * side),
    }


def _profile(graph: str, spec: GraphSpec, symbols: Symbols) -> Profile:
    profile = {}
    for port in spec.inputs:
        named = [dim for dim in port.shape if isinstance(dim, str)]
        if unknown := sorted(set(named) - set(symbols)):
            raise BundleError(f"graph {graph} has the unknown dimension {unknown[0]} in {port.name}: update leo_edge")
        if named:
            least, likely, most = (_shape(port.shape, symbols, place) for place in range(3))
            profile[port.name] = (least, likely, most)
    return profile


def _shape(dims: tuple[int | str, ...], symbols: Symbols, place: int) -> Shape:
    return tuple(symbols[dim][place] if isinstance(dim, str) else dim for dim in dims)


def _likely_tiles(tiling: TilingConfig) -> int:
    """Returns the tiles of one camera, its thumbnail among them."""
    return num_tiles(choose_grid(*NUSCENES_PX, tiling), tiling)


def _most_tiles(tiling: TilingConfig) -> int:
    """Returns the most tiles that an image of any size gives."""
    return tiling.max_tiles + (1 if tiling.use_thumbnail and tiling.max_tiles > 1 else 0)
