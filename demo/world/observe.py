"""What the six cameras show at a keyframe: every object with where it is, and how surely each camera shows it.

All of it is judged in images of `SMALL_SIZE_PX`, whatever size is drawn for a consumer: the truth must not depend on that.
Shape letters: C cameras, A actors, O objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leo_edge.demo.world.draw import Drawn, draw
from leo_edge.demo.world.kinds import BICYCLE, CONSTRUCTION, KINDS
from leo_edge.demo.world.rig import RIG, Camera
from leo_edge.demo.world.scene import EGO_FRONT_M, STANDING_MPS, VEHICLES, Moment, Scene

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SMALL_SIZE_PX = (288, 288)
"""Width and height of what the tiny model is trained on: twice its tile of 144 pixels, which shows a whole image."""

KEYFRAME_S = 0.5
FIRST_KEYFRAME_S = 0.1  # cameras fire before the keyframe's stamp

# In pixels of the small image: from `_SURE_PX` on, and with `_SURE_PART` of it visible, an object counts as shown; below
# `_UNSEEN_PX` it counts as not shown. Between the two it is in doubt.
_SURE_PX, _UNSEEN_PX, _SURE_PART = 160, 20, 0.7
# Smaller vehicles do not show whether their brake lights are on. Those are judged where they are on every vehicle: three points
# across its rear, at this height.
_BRAKES_SHOW_PX, _BRAKES_M = 500, 0.8
_LAMP_SURE_PX, _LAMP_UNSEEN_PX = 50, 2
_MOVING_MPS = 1.0


@dataclass(frozen=True)
class Shown:
    """An actor in one camera. `sure`: clearly shown; otherwise in doubt. `distance_m` is from the camera."""

    actor: int
    kind: int
    colour: str | None
    status: str | None
    distance_m: float
    sure: bool


@dataclass(frozen=True)
class Keyframe:
    """A keyframe, observed. `shown` by camera; `light` is the lamp's state ahead, 0 for none, None in doubt.

    light_gap_m: from the ego vehicle's front to the stop line of the next crossing with a light.
    """

    scene: Scene
    number: int
    moment: Moment
    drawn: dict[str, Drawn]
    shown: dict[str, tuple[Shown, ...]]
    light: int | None
    light_gap_m: float

    def surely_shown(self, actor: int) -> bool:
        """Whether some camera clearly shows an actor."""
        return any(one.actor == actor and one.sure for shown in self.shown.values() for one in shown)


def keyframe_time(number: int) -> float:
    """Returns the time of keyframe `number` of a scene, in seconds from its start."""
    return FIRST_KEYFRAME_S + number * KEYFRAME_S


def shot_moment(scene: Scene, time_s: float, camera: Camera) -> Moment:
    """Returns the moment at which a camera fires for a keyframe or sweep at `time_s`: before it."""
    return scene.at(time_s + camera.delay_us * 1e-6)


def shot(scene: Scene, time_s: float, camera: Camera, size_px: tuple[int, int]) -> Drawn:
    """Draws the image of one camera that belongs to a keyframe or sweep at `time_s`."""
    return draw(scene, shot_moment(scene, time_s, camera), camera, size_px)


def observe(scene: Scene, number: int) -> Keyframe:
    """Draws keyframe `number` in small images and judges what they show."""
    time_s = keyframe_time(number)
    shots = {channel: shot_moment(scene, time_s, camera) for channel, camera in RIG.items()}
    drawn = {channel: draw(scene, shots[channel], camera, SMALL_SIZE_PX) for channel, camera in RIG.items()}
    shown = {channel: tuple(_shown(scene, shots[channel], drawn[channel], camera)) for channel, camera in RIG.items()}
    light, gap = _light(scene, shots["CAM_FRONT"], drawn["CAM_FRONT"])
    return Keyframe(scene, number, scene.at(time_s), drawn, shown, light, gap)


def _shown(scene: Scene, moment: Moment, drawn: Drawn, camera: Camera) -> list[Shown]:
    found = []
    for actor in np.flatnonzero(drawn.visible_px[: len(scene.actors)] >= _UNSEEN_PX).tolist():
        look = scene.actors[actor].look
        part = drawn.visible_px[actor] / max(1, drawn.whole_px[actor])
        middle = np.array([[moment.x[actor], moment.y[actor], look.size_m[2] / 2]])
        sure = drawn.visible_px[actor] >= _SURE_PX and part >= _SURE_PART and _pixels(middle, camera) is not None
        x, y = moment.x[actor] - camera.position_m[0], moment.y[actor] - camera.position_m[1]
        status = _status(scene, moment, actor, camera, drawn)
        found.append(Shown(actor, look.kind, scene.actors[actor].colour, status, float(np.hypot(x, y)), bool(sure)))
    return found


def _pixels(points: Floats, camera: Camera) -> Ints | None:
    """Returns column and row of points [N, 3] of the ego frame in the small image, [N, 2]; None unless all lie in it."""
    rays = (points - camera.position_m) @ camera.ego_from_camera() @ camera.intrinsic(SMALL_SIZE_PX).T
    if (rays[:, 2] < 0.5).any():
        return None
    pixels = np.rint(rays[:, :2] / rays[:, 2:]).astype(np.int64)
    return pixels if ((pixels >= 0) & (pixels < SMALL_SIZE_PX)).all() else None


def _status(scene: Scene, moment: Moment, actor: int, camera: Camera, drawn: Drawn) -> str | None:
    """Returns the status that a single image shows, in NuScenes-QA's words; None where it shows none.

    A held brake shows at a vehicle's rear only, and not from afar.
    """
    who = scene.actors[actor]
    if who.look.kind == BICYCLE:
        return "with rider" if who.look.rider else "without rider"
    if who.look.kind not in VEHICLES:
        return None
    if who.parked:
        return "parked"
    speed = moment.speed_mps[actor]
    near = drawn.visible_px[actor] >= _BRAKES_SHOW_PX
    if STANDING_MPS <= speed <= _MOVING_MPS or not near or not _rear_shows(scene, moment, actor, camera, drawn):
        return None
    return "stopped" if speed < STANDING_MPS else "moving"


def _rear_shows(scene: Scene, moment: Moment, actor: int, camera: Camera, drawn: Drawn) -> bool:
    """Whether a vehicle's rear faces a camera, and lies in its image with nothing before it."""
    width, length, _ = scene.actors[actor].look.size_m
    ahead = np.array([np.cos(moment.yaw[actor]), np.sin(moment.yaw[actor]), 0.0])
    rear = np.array([moment.x[actor], moment.y[actor], _BRAKES_M]) - ahead * length / 2
    line = rear - camera.position_m
    if line @ ahead < 0.35 * np.linalg.norm(line[:2]):
        return False
    across = np.array([-0.35, 0.0, 0.35])[:, None] * width * np.array([-ahead[1], ahead[0], 0.0])
    pixels = _pixels(rear + across, camera)
    return pixels is not None and bool((drawn.objects[pixels[:, 1], pixels[:, 0]] == actor).all())


def _light(scene: Scene, moment: Moment, drawn: Drawn) -> tuple[int | None, float]:
    """Returns the state of the nearest light ahead that the front camera shows, and the gap to its stop line."""
    gaps = {index: crossing.x - moment.ego_x - EGO_FRONT_M - 3.5 for index, crossing in enumerate(scene.road.crossings)}
    ahead = [index for index, crossing in enumerate(scene.road.crossings) if crossing.has_light and gaps[index] > -4.0]
    if not ahead:
        return 0, float("inf")
    nearest = min(ahead, key=lambda index: gaps[index])
    prop = next(i for i, prop in enumerate(scene.props) if prop.crossing == nearest)
    lamp_px = int(drawn.lamp_px[len(scene.actors) + prop])
    others = [int(drawn.lamp_px[len(scene.actors) + i]) for i, p in enumerate(scene.props) if p.crossing not in (None, nearest)]
    if lamp_px >= _LAMP_SURE_PX:
        return moment.lights[nearest], gaps[nearest]
    if lamp_px < _LAMP_UNSEEN_PX and max(others, default=0) < _LAMP_UNSEEN_PX:
        return 0, gaps[nearest]
    return None, gaps[nearest]


def attribute_of(scene: Scene, moment: Moment, actor: int) -> str | None:
    """Returns the nuScenes attribute of an actor, whatever the cameras show of it."""
    who = scene.actors[actor]
    category = KINDS[who.look.kind].category
    if who.look.kind == BICYCLE:
        return "cycle.with_rider" if who.look.rider else "cycle.without_rider"
    moving = moment.speed_mps[actor] >= STANDING_MPS
    if category.startswith("human"):
        return "pedestrian.moving" if moving else "pedestrian.standing"
    if who.look.kind in (*VEHICLES, CONSTRUCTION):
        return "vehicle.parked" if who.parked else "vehicle.moving" if moving else "vehicle.stopped"
    return None


def visibility_of(keyframe: Keyframe, actor: int) -> int:
    """Returns the nuScenes visibility level of an actor, 1 to 4: how much of it the cameras that see it show together."""
    seen = sum(int(drawn.visible_px[actor]) for drawn in keyframe.drawn.values())
    whole = sum(int(drawn.whole_px[actor]) for drawn in keyframe.drawn.values())
    part = seen / max(1, whole)
    return 1 + int(np.searchsorted([0.4, 0.6, 0.8], part, side="right"))


def lane_span(scene: Scene, moment: Moment, actor: int) -> tuple[float, float]:
    """Returns from where to where along the road a vehicle reaches, in the ego frame."""
    half = scene.actors[actor].look.size_m[1] / 2
    return float(moment.x[actor]) - half, float(moment.x[actor]) + half
