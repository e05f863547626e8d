"""What the six cameras show at a keyframe: every object with where it is, and how surely each camera shows it.

All of it is judged in images of `SMALL_SIZE_PX`, whatever size is drawn for a consumer: the truth must not depend on that.
Shape letters: C cameras, A actors, O objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leo_edge.demo.world.draw import Drawn, draw
from leo_edge.demo.world.kinds import BICYCLE, CONSTRUCTION, KINDS
from leo_edge.demo.world.rig import FULL_SIZE_PX, RIG, Camera
from leo_edge.demo.world.scene import EGO_FRONT_M, STANDING_MPS, VEHICLES, Moment, Scene

SMALL_SIZE_PX = (288, 288)
"""Width and height of what the tiny model is trained on: twice its tile of 144 pixels, which shows a whole image."""

KEYFRAME_S = 0.5
FIRST_KEYFRAME_S = 0.1  # cameras fire before the keyframe's stamp

# In pixels of the small image: from `_SURE_PX` on, and with `_SURE_PART` of it visible, an object counts as shown; below
# `_UNSEEN_PX` it counts as not shown. Between the two it is in doubt.
_SURE_PX, _UNSEEN_PX, _SURE_PART = 90, 16, 0.45
# Smaller vehicles do not show whether their brake lights are on.
_BRAKES_SHOW_PX = 250
_LAMP_SURE_PX, _LAMP_UNSEEN_PX = 9, 2
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


def shot(scene: Scene, time_s: float, camera: Camera, size_px: tuple[int, int]) -> Drawn:
    """Draws the image of one camera that belongs to a keyframe or sweep at `time_s`: the camera fires before it."""
    return draw(scene, scene.at(time_s + camera.delay_us * 1e-6), camera, size_px)


def observe(scene: Scene, number: int) -> Keyframe:
    """Draws keyframe `number` in small images and judges what they show."""
    time_s = keyframe_time(number)
    moment = scene.at(time_s)
    drawn = {channel: shot(scene, time_s, camera, SMALL_SIZE_PX) for channel, camera in RIG.items()}
    shown = {channel: tuple(_shown(scene, moment, drawn[channel], camera)) for channel, camera in RIG.items()}
    light, gap = _light(scene, moment, drawn["CAM_FRONT"])
    return Keyframe(scene, number, moment, drawn, shown, light, gap)


def _shown(scene: Scene, moment: Moment, drawn: Drawn, camera: Camera) -> list[Shown]:
    found = []
    for actor in np.flatnonzero(drawn.visible_px[: len(scene.actors)] >= _UNSEEN_PX).tolist():
        look = scene.actors[actor].look
        part = drawn.visible_px[actor] / max(1, drawn.whole_px[actor])
        sure = drawn.visible_px[actor] >= _SURE_PX and part >= _SURE_PART and _centre_inside(moment, actor, look.size_m, camera)
        x, y = moment.x[actor] - camera.position_m[0], moment.y[actor] - camera.position_m[1]
        status = _status(scene, moment, actor, camera, int(drawn.visible_px[actor]))
        found.append(Shown(actor, look.kind, scene.actors[actor].colour, status, float(np.hypot(x, y)), bool(sure)))
    return found


def _centre_inside(moment: Moment, actor: int, size_m: tuple[float, float, float], camera: Camera) -> bool:
    """Whether the middle of an actor lies in the image."""
    middle = np.array([moment.x[actor], moment.y[actor], size_m[2] / 2]) - camera.position_m
    u, v, depth = camera.intrinsic() @ (middle @ camera.ego_from_camera())
    return bool(depth > 0.5 and 0 < u / depth < FULL_SIZE_PX[0] and 0 < v / depth < FULL_SIZE_PX[1])


def _status(scene: Scene, moment: Moment, actor: int, camera: Camera, visible_px: int) -> str | None:
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
    line = np.array([moment.x[actor], moment.y[actor]]) - camera.position_m[:2]
    heading = np.array([np.cos(moment.yaw[actor]), np.sin(moment.yaw[actor])])
    rear_shows = float(line @ heading) / float(np.linalg.norm(line)) > 0.35
    speed = moment.speed_mps[actor]
    if not rear_shows or visible_px < _BRAKES_SHOW_PX or STANDING_MPS <= speed <= _MOVING_MPS:
        return None
    return "stopped" if speed < STANDING_MPS else "moving"


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
