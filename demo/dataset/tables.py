"""The rows of one scene in nuScenes' tables (https://www.nuscenes.org/nuscenes#data-format)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

from leo_edge.demo.dataset.names import (
    LIDAR,
    image_file,
    lidar_file,
    log_name,
    map_file,
    sample_token,
    scene_name,
    scene_token,
    token,
)
from leo_edge.demo.dataset.plan import DatasetOptions, Shot, keyframe_stamp_us, scene_start_us
from leo_edge.demo.dataset.poses import map_position, yaw_quaternion
from leo_edge.demo.dataset.record import Annotation, Recorded
from leo_edge.demo.world.kinds import KINDS
from leo_edge.demo.world.observe import keyframe_time
from leo_edge.demo.world.rig import RIG
from leo_edge.demo.world.scene import Scene

Record = dict[str, Any]


def scene_rows(scene: Scene, options: DatasetOptions, recorded: Sequence[Recorded]) -> dict[str, list[Record]]:
    """Returns the rows of a scene by table; `recorded` holds all of its keyframes in order."""
    samples = [_sample(scene, one.keyframe) for one in recorded]
    _chain(samples)
    annotations = [_annotation(scene, one.keyframe, each) for one in recorded for each in one.annotations]
    ego_poses, sample_data = [], []
    for channel in RIG:
        shots = [each for one in recorded for each in options.shots(one.keyframe) if each.channel == channel]
        images = [_image(scene, options, each) for each in shots]
        _chain(images)
        sample_data += images
        ego_poses += [_ego_pose(scene, row, each.fired_s) for row, each in zip(images, shots, strict=True)]
    lidar = [_lidar(scene, one.keyframe) for one in recorded]
    _chain(lidar)
    ego_poses += [_ego_pose(scene, row, keyframe_time(one.keyframe)) for row, one in zip(lidar, recorded, strict=True)]
    return {
        "instance": _instances(scene, annotations),
        "ego_pose": ego_poses,
        "log": [_log(scene)],
        "scene": [_scene(scene, samples)],
        "sample": samples,
        "sample_data": sample_data + lidar,
        "sample_annotation": annotations,
        "map": [_map(scene)],
    }


def _chain(rows: Sequence[Record]) -> None:
    """Links rows that follow one another."""
    for before, after in pairwise(rows):
        before["next"], after["prev"] = after["token"], before["token"]


def _log(scene: Scene) -> Record:
    started = datetime.fromtimestamp(scene_start_us(scene.index) * 1e-6, timezone.utc)
    name = log_name(scene.seed, scene.index)
    return {
        "token": token("log", scene.seed, scene.index),
        "logfile": name,
        "vehicle": "drawn",
        "date_captured": started.date().isoformat(),
        "location": name,
    }


def _map(scene: Scene) -> Record:
    return {
        "token": token("map", scene.seed, scene.index),
        "log_tokens": [token("log", scene.seed, scene.index)],
        "category": "semantic_prior",
        "filename": map_file(scene.seed, scene.index),
    }


def _scene(scene: Scene, samples: Sequence[Record]) -> Record:
    road = scene.road
    lights = sum(crossing.has_light for crossing in road.crossings)
    description = (
        f"{scene.look.capitalize()}, {1 + road.num_left + road.num_right} lanes this way and {road.num_opposite} the other, "
        f"{len(road.crossings)} crossings, {lights} with a traffic light"
    )
    return {
        "token": scene_token(scene.seed, scene.index),
        "log_token": token("log", scene.seed, scene.index),
        "nbr_samples": len(samples),
        "first_sample_token": samples[0]["token"],
        "last_sample_token": samples[-1]["token"],
        "name": scene_name(scene.index),
        "description": description,
    }


def _sample(scene: Scene, keyframe: int) -> Record:
    return {
        "token": sample_token(scene.seed, scene.index, keyframe),
        "timestamp": keyframe_stamp_us(scene.index, keyframe),
        "scene_token": scene_token(scene.seed, scene.index),
        "prev": "",
        "next": "",
    }


def _image(scene: Scene, options: DatasetOptions, shot: Shot) -> Record:
    width, height = options.size_px
    stamp_us = shot.stamp_us(scene.index)
    name = token("sample_data", scene.seed, scene.index, shot.channel, stamp_us)
    return {
        "token": name,
        "sample_token": sample_token(scene.seed, scene.index, shot.keyframe),
        "ego_pose_token": name,
        "calibrated_sensor_token": token("calibrated_sensor", shot.channel),
        "timestamp": stamp_us,
        "fileformat": options.image_format,
        "is_key_frame": shot.is_key_frame,
        "width": width,
        "height": height,
        "filename": image_file(scene.seed, scene.index, shot, options.image_format),
        "prev": "",
        "next": "",
    }


def _lidar(scene: Scene, keyframe: int) -> Record:
    """There is no LiDAR, but the devkit looks for one with every keyframe."""
    stamp_us = keyframe_stamp_us(scene.index, keyframe)
    name = token("sample_data", scene.seed, scene.index, LIDAR, stamp_us)
    return {
        "token": name,
        "sample_token": sample_token(scene.seed, scene.index, keyframe),
        "ego_pose_token": name,
        "calibrated_sensor_token": token("calibrated_sensor", LIDAR),
        "timestamp": stamp_us,
        "fileformat": "pcd",
        "is_key_frame": True,
        "width": 0,
        "height": 0,
        "filename": lidar_file(scene.seed, scene.index, keyframe),
        "prev": "",
        "next": "",
    }


def _ego_pose(scene: Scene, sample_data: Record, time_s: float) -> Record:
    """As in nuScenes, an ego pose bears the token of the sample data that it belongs to."""
    return {
        "token": sample_data["ego_pose_token"],
        "timestamp": sample_data["timestamp"],
        "translation": map_position(scene, scene.at(time_s).ego_x, 0.0),
        "rotation": list(yaw_quaternion(scene.road_to_map[2])),
    }


def _annotation(scene: Scene, keyframe: int, seen: Annotation) -> Record:
    w, length, h = scene.actors[seen.actor].look.size_m
    return {
        "token": token("sample_annotation", scene.seed, scene.index, keyframe, seen.actor),
        "sample_token": sample_token(scene.seed, scene.index, keyframe),
        "instance_token": token("instance", scene.seed, scene.index, seen.actor),
        "visibility_token": str(seen.visibility),
        "attribute_tokens": [] if seen.attribute is None else [token("attribute", seen.attribute)],
        "translation": map_position(scene, seen.x, seen.y, h / 2),
        "size": [w, length, h],
        "rotation": list(yaw_quaternion(seen.yaw + scene.road_to_map[2])),
        "prev": "",
        "next": "",
        "num_lidar_pts": seen.visible_px,
        "num_radar_pts": 0,
    }


def _instances(scene: Scene, annotations: Sequence[Record]) -> list[Record]:
    """Returns the actors that are annotated, and links each one's annotations."""
    by_instance: dict[str, list[Record]] = {}
    for row in annotations:
        by_instance.setdefault(row["instance_token"], []).append(row)
    rows = []
    for actor, who in enumerate(scene.actors):
        name = token("instance", scene.seed, scene.index, actor)
        if chain := by_instance.get(name):
            _chain(chain)
            rows.append(
                {
                    "token": name,
                    "category_token": token("category", KINDS[who.look.kind].category),
                    "nbr_annotations": len(chain),
                    "first_annotation_token": chain[0]["token"],
                    "last_annotation_token": chain[-1]["token"],
                }
            )
    return rows
