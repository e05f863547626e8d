"""export/profiles.py: every graph runs at both ends of its profiles, which hold what the pipeline asks for and no more."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from leo_edge.export.profiles import ProfileOptions, length_buckets, profile_options, profiles_of
from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.engines import Profile
from leo_edge.runtime.errors import BundleError, LeoEdgeError
from leo_edge.runtime.manifest import TensorSpec
from tests.conftest import MadeOnce

# A 16:9 image is cut into 2 x 1 tiles and a thumbnail; the largest grid has 6 tiles.
TILES, MOST_TILES = 3, 7


@pytest.fixture
def leo(tiny_bundles: MadeOnce) -> Bundle:
    return open_bundle(tiny_bundles["leo-tiny"])


@pytest.fixture
def mini(tiny_bundles: MadeOnce) -> Bundle:
    return open_bundle(tiny_bundles["leo-mini-tiny"])


@pytest.fixture
def fused(micro_bundles: MadeOnce) -> Bundle:
    return open_bundle(micro_bundles["fused"])


def at(bundle: Bundle, graph: str, options: ProfileOptions | None = None) -> tuple[Profile, ...]:
    return profiles_of(bundle.manifest, graph, options or profile_options(bundle.manifest))


def test_a_vision_expert_takes_one_tile_to_those_of_six_cameras(mini: Bundle) -> None:
    assert at(mini, "vision.clip") == ({"tiles": ((1, 112, 112, 3), (18, 112, 112, 3), (18, 112, 112, 3))},)
    asked = profile_options(mini.manifest, tiles=(1, 6, 42))
    assert at(mini, "vision.sam", asked) == ({"tiles": ((1, 112, 112, 3), (6, 112, 112, 3), (42, 112, 112, 3))},)


def test_an_expert_takes_no_more_tiles_than_there_is_memory_for(mini: Bundle) -> None:
    options = profile_options(mini.manifest, at_once={"vision.clip": 48, "vision.sam": 0}.__getitem__)
    assert options.tiles == {"vision.clip": (1, 18, 18), "vision.sam": (1, 1, 1)}
    asked = profile_options(mini.manifest, tiles=(1, 6, 18), at_once=lambda _: 1)
    assert asked.tiles == dict.fromkeys(options.tiles, (1, 6, 18))


def test_leo_fuses_the_tiles_of_a_camera(leo: Bundle) -> None:
    (profile,) = at(leo, "fuse")
    for name in ("tokens.internvit", "tokens.sam"):
        assert [shape[0] for shape in profile[name]] == [1, TILES, MOST_TILES]
    assert "text_embeds" not in profile


def test_leo_mini_fuses_image_by_image_from_one_tile_to_the_most(mini: Bundle) -> None:
    (profile,) = at(mini, "fuse")
    clip, sam = (expert.num_tokens for expert in mini.manifest.experts)
    assert [shape[:2] for shape in profile["tokens.clip"]] == [(1, clip), (6, TILES * clip), (6, MOST_TILES * clip)]
    assert [shape[:2] for shape in profile["tokens.sam"]] == [(1, sam), (6, TILES * sam), (6, MOST_TILES * sam)]
    context, width = mini.manifest.decoder.context_len, mini.manifest.decoder.hidden_size
    assert profile["text_embeds"] == ((1, width), (32, width), (context, width))


def test_the_router_takes_all_visual_tokens_that_six_cameras_can_give(mini: Bundle) -> None:
    (profile,) = at(mini, "router")
    per_image = mini.manifest.fuse.num_tokens
    assert [shape[0] for shape in profile["visual_embeds"]] == [1, 6 * per_image, 6 * per_image]
    by_tile = replace(mini.manifest, fuse=replace(mini.manifest.fuse, unit="tile"))
    (profile,) = profiles_of(by_tile, "router", profile_options(by_tile))
    assert [shape[0] for shape in profile["visual_embeds"]] == [1, 6 * TILES * per_image, 6 * MOST_TILES * per_image]


@pytest.mark.parametrize(
    ("context", "buckets"),
    [(2, (2,)), (256, (256,)), (257, (256, 257)), (512, (256, 512)), (1574, (256, 512, 1024, 1574))],
)
def test_decoding_has_a_bucket_of_each_power_and_the_context(context: int, buckets: tuple[int, ...]) -> None:
    assert length_buckets(context) == buckets


def test_a_growing_cache_has_a_prefill_profile_and_a_decode_profile_per_bucket(leo: Bundle) -> None:
    prefill, *decode = at(leo, "llm", profile_options(leo.manifest, context=1000))
    assert [shape[0] for shape in prefill["embeds"]] == [1, 512, 512]
    assert prefill["positions"] == ((1,), (512,), (512,))
    assert [shape[0] for shape in prefill["past_value.2"]] == [0, 512, 999]
    assert [[shape[0] for shape in profile["past_key.0"]] for profile in decode] == [[n] * 3 for n in (256, 512, 1000)]
    assert all(profile["positions"] == ((1,), (1,), (1,)) for profile in decode)


def test_a_short_context_caps_everything(leo: Bundle) -> None:
    prefill, decode = at(leo, "llm", profile_options(leo.manifest, context=100))
    assert prefill["positions"] == ((1,), (100,), (100,))
    assert [shape[0] for shape in prefill["past_key.0"]] == [0, 99, 99]
    assert [shape[0] for shape in decode["past_key.0"]] == [100] * 3


def test_a_cache_updated_in_place_has_one_capacity_in_both_profiles(fused: Bundle) -> None:
    prefill, decode = at(fused, "llm", profile_options(fused.manifest, context=300))
    heads, width = fused.manifest.decoder.num_kv_heads, fused.manifest.decoder.head_dim
    for profile in (prefill, decode):
        assert profile["past_key.0"] == profile["past_value.0"] == ((1, heads, 300, width),) * 3
    assert prefill["positions"] == ((1,), (300,), (300,))
    assert decode["positions"] == ((1,), (1,), (1,))


def test_tiles_are_cut_of_one_size_of_image_into_every_grid_that_it_gets(mini: Bundle) -> None:
    manifest = mini.manifest
    (profile,) = profiles_of(manifest, "tiles", profile_options(manifest, camera_px=(1600, 900)))
    assert profile["image"] == ((900, 1600, 3),) * 3
    assert profile["columns_upper"] == profile["columns_lower"] == ((1600, 112), (1600, 224), (1600, 224))
    assert profile["rows_upper"] == ((112, 900), (112, 900), (112, 900))
    # A square image fits 1 x 1 and 2 x 2 equally well; it takes the larger where it has the pixels.
    (square,) = profiles_of(manifest, "tiles", profile_options(manifest, camera_px=(900, 900)))
    assert square["rows_upper"] == ((112, 900), (224, 900), (224, 900))
    with pytest.raises(LeoEdgeError, match="give --camera-size WxH"):
        profiles_of(manifest, "tiles", profile_options(manifest))


@pytest.mark.parametrize("name", ["leo", "mini", "fused"])
def test_every_graph_runs_at_both_ends_of_every_profile(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    options = profile_options(bundle.manifest, context=300, tiles=(1, 2, 3), camera_px=(160, 90))
    for graph, spec in bundle.manifest.graphs.items():
        profiles = at(bundle, graph, options)
        session = ort.InferenceSession(str(bundle.path(spec.file)))
        for profile in profiles:
            assert set(profile) == {port.name for port in spec.inputs if any(isinstance(dim, str) for dim in port.shape)}
            for end in (0, 2):
                session.run(None, {port.name: _zeros(port, profile, end) for port in spec.inputs})


def _zeros(port: TensorSpec, profile: Profile, end: int) -> npt.NDArray[Any]:
    shape = profile[port.name][end] if port.name in profile else tuple(int(dim) for dim in port.shape)
    return np.zeros(shape, port.dtype)


class TestRefused:
    @pytest.mark.parametrize("context", [1, 0, -5, 10**6])
    def test_a_context_that_the_bundle_has_not(self, mini: Bundle, context: int) -> None:
        with pytest.raises(LeoEdgeError, match=rf"--context must be 2 to \d+, .*, got {context}: export again"):
            profile_options(mini.manifest, context=context)

    @pytest.mark.parametrize("tiles", [(0, 1, 1), (2, 1, 3), (1, 3, 2)])
    def test_tiles_that_do_not_ascend(self, mini: Bundle, tiles: tuple[int, int, int]) -> None:
        with pytest.raises(LeoEdgeError, match="--profile-tiles must be least, likeliest and most"):
            profile_options(mini.manifest, tiles=tiles)

    def test_an_image_without_pixels(self, mini: Bundle) -> None:
        with pytest.raises(LeoEdgeError, match="--camera-size must be at least 1x1 pixels, got 0x900"):
            profile_options(mini.manifest, camera_px=(0, 900))

    def test_a_dimension_that_is_not_known(self, mini: Bundle) -> None:
        spec = mini.manifest.graphs["router"]
        ports = (TensorSpec("visual_embeds", "float32", ("Q", 8)),)
        manifest = replace(mini.manifest, graphs={**mini.manifest.graphs, "router": replace(spec, inputs=ports)})
        with pytest.raises(BundleError, match="graph router has the unknown dimension Q in visual_embeds: update leo_edge"):
            profiles_of(manifest, "router", profile_options(manifest))
