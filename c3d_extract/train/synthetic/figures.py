"""Jointed figures that walk, wave, kick, shake hands.

A figure is a skeleton in three dimensions (forward, up, left of its own), turned to a viewing angle and
projected in parallel, and drawn as capsules from far to near. Lengths are in body heights, angles in radians.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from c3d_extract.train.synthetic.actions import ACTIONS, HALF_TURN, Pose, Scene
from c3d_extract.train.synthetic.background import random_background, random_colour
from c3d_extract.train.synthetic.camera import Camera, moving_camera
from c3d_extract.train.synthetic.canvas import Array, Canvas, Texture

__all__ = ["paint_figures"]

Points = dict[str, Array]  # joint → positions (T, 3)

LENGTHS = {
    "thigh": 0.24, "shin": 0.24, "torso": 0.29, "upper_arm": 0.17, "forearm": 0.19,
    "shoulder": 0.105, "hip": 0.05, "head": 0.065,
}  # fmt: skip
"""Usual lengths; of shoulder and hip half the width, of the head the radius."""

SIDES = np.array([[1.0], [-1.0]])  # left, right

LIMBS = (
    ("hip", "knee", "thigh", 0.048),
    ("knee", "ankle", "shin", 0.034),
    ("ankle", "toe", "shoe", 0.024),
    ("shoulder", "elbow", "upper_arm", 0.033),
    ("elbow", "hand", "forearm", 0.024),
    ("hand", "hand", "hand", 0.026),
)
"""From joint, to joint, texture, radius; each of the left and of the right."""


@dataclass(frozen=True)
class Body:
    """One person's lengths, a factor of all radii, and the texture of each part."""

    lengths: dict[str, float]
    girth: float
    textures: dict[str, Texture]

    def capsules(self) -> list[tuple[str, str, Texture, float]]:
        """Return from joint, to joint, texture and radius of every part."""
        girth, head = self.girth, self.lengths["head"]
        parts = [
            ("pelvis", "neck", "torso", 0.085 * girth),
            ("left shoulder", "right shoulder", "upper_arm", 0.04 * girth),
            ("neck", "head", "head", 0.03),
            ("head", "head", "head", head),
            ("hair", "hair", "hair", head * 0.95),
        ]
        for side in ("left", "right"):
            parts += [(f"{side} {a}", f"{side} {b}", part, radius * girth) for a, b, part, radius in LIMBS]
        return [(start, end, self.textures[part], radius) for start, end, part, radius in parts]


def _random_body(rng: np.random.Generator) -> Body:
    skin = np.array([0.45, 0.55, 0.75]) * rng.uniform(0.35, 1.25) + rng.normal(0, 0.03, 3)
    top, trousers = _random_clothes(rng), _random_clothes(rng)
    bare = Texture(skin.clip(0, 1).astype(np.float32), skin.astype(np.float32), "plain", 1)
    sleeve = replace(top, pattern="plain")
    dark = np.full(3, rng.uniform(0, 0.35), np.float32)
    textures = {
        "torso": top,
        "upper_arm": sleeve,
        "forearm": sleeve if rng.random() < 0.5 else bare,
        "thigh": trousers,
        "shin": bare if rng.random() < 0.2 else trousers,
        "hand": bare,
        "head": bare,
        "hair": Texture(dark * np.float32(2.2 if rng.random() < 0.25 else 1), dark, "plain", 1),
        "shoe": Texture(random_colour(rng), dark, "plain", 1),
    }
    lengths = {name: length * float(rng.uniform(0.88, 1.12)) for name, length in LENGTHS.items()}
    return Body(lengths, float(rng.uniform(0.8, 1.4)), textures)


def _random_clothes(rng: np.random.Generator) -> Texture:
    colour = random_colour(rng)
    step = np.float32(rng.uniform(0.15, 0.6) * (-1 if colour.mean() > 0.5 else 1))
    second = np.minimum(np.maximum(colour + step, np.float32(0)), np.float32(1))
    pattern = ("plain", "plain", "plain", "stripes", "checks")[rng.integers(5)]
    return Texture(colour, second, pattern, rng.uniform(1.5, 4))


def _limb(pitches: tuple[Array, Array], spreads: tuple[Array, Array], lengths: tuple[float, float]) -> Array:
    # The ends of the upper and of the lower part from where the limb begins, (2, 2, T, 3), forward, up, left.
    across = np.cos(spreads)
    axes = [np.sin(pitches) * across, -np.cos(pitches) * across, SIDES * np.sin(spreads)]
    upper, lower = np.array(lengths)[:, None, None, None] * np.stack(axes, axis=-1)
    return np.stack([upper, upper + lower])


def _torso_axes(torso: Array) -> Array:
    # The torso's forward, up and left (T, 3, 3), each in the body's.
    cos, sin, zero = np.cos(torso), np.sin(torso), np.zeros(len(torso))
    axes = np.array([[cos, -sin, zero], [sin, cos, zero], [zero, zero, zero + 1]])
    return np.ascontiguousarray(np.moveaxis(axes, -1, 0))


def _skeleton(pose: Pose, lengths: dict[str, float]) -> Points:
    """Return joints (T, 3) in the body's axes; the lower foot is on the ground, except in jumps."""
    upright = np.zeros_like(pose.hip)
    leg = (pose.hip, pose.hip - pose.knee), (upright, upright), (lengths["thigh"], lengths["shin"])
    knee, ankle = _limb(*leg)
    pelvis = np.zeros((len(pose.rise), 3))
    pelvis[:, 0] = pose.advance
    pelvis[:, 1] = -ankle[..., 1].min(axis=0) + 0.03 + pose.rise
    axes = _torso_axes(pose.torso)
    neck = pelvis + lengths["torso"] * axes[:, 1]
    head = neck + (0.03 + lengths["head"]) * axes[:, 1] + 0.01 * axes[:, 0]
    hair = head + 0.03 * axes[:, 1] - 0.02 * axes[:, 0]
    to_side = SIDES[..., None] * [0, 0, 1]
    shoulder = neck - 0.03 * axes[:, 1] + lengths["shoulder"] * to_side
    hip = pelvis + lengths["hip"] * to_side
    pitch, spread = pose.arm_pitch, pose.arm_spread + 0.12
    pitches, spreads = (pitch, pitch + pose.elbow + 0.1), (spread, spread + pose.elbow_spread)
    arm = _limb(pitches, spreads, (lengths["upper_arm"], lengths["forearm"]))
    elbow, hand = (shoulder + np.einsum("sti,tij->stj", joint, axes) for joint in arm)
    knee, ankle = hip + knee, hip + ankle
    pairs = {"shoulder": shoulder, "elbow": elbow, "hand": hand, "hip": hip, "knee": knee, "ankle": ankle}
    pairs["toe"] = ankle + np.array([0.08, -0.01, 0])
    points = {"pelvis": pelvis, "neck": neck, "head": head, "hair": hair}
    for name, (left, right) in pairs.items():
        points |= {f"left {name}": left, f"right {name}": right}
    return points


def _placed(points: Points, facing: Array, position: Array) -> Points:
    """Turn a body to ``facing`` (T,), 0 along x, a quarter turn to the camera; put it at ``position`` (T, 2).

    The world's axes are x along the picture, up, and towards the camera.
    """
    cos, sin = np.cos(facing), np.sin(facing)
    forward, up, left = np.moveaxis(np.stack(list(points.values())), -1, 0)
    x, depth = position[:, 0] + forward * cos + left * sin, position[:, 1] + forward * sin - left * cos
    return dict(zip(points, np.stack([x, up, depth], axis=-1), strict=True))


@dataclass(frozen=True)
class View:
    """How the world becomes pixels, and how dark shadows are."""

    height: float  # pixels a body height
    stretch: float  # horizontal scale relative to vertical
    foot: Array  # pixels x, y of the world's origin on the ground
    elevation: float  # downward tilt of the camera, radians
    roll: float  # sideways tilt of the camera, radians
    shadow: float  # opacity of the shadow below a figure, 0–1

    def project(self, points: Array) -> Array:
        """Project points (…, 3) to pixels (…, 2)."""
        up = points[..., 1] * np.cos(self.elevation) - points[..., 2] * np.sin(self.elevation)
        across = points[..., 0] * self.stretch
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        turned = np.stack([across * cos + up * sin, across * sin - up * cos], axis=-1)
        pixels: Array = self.foot + self.height * turned
        return pixels


def _random_view(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> View:
    """Return a view of the whole body, or from far away (1 in 5), or of a part from near (1 in 6)."""
    height, width = size
    stretch = rng.uniform(0.65, 1.5) * (1.0 if scene.gap is None else 0.85)
    chance = rng.random()
    if chance < 0.2:
        tall = height * rng.uniform(0.22, 0.45)
        foot = np.array([width * rng.uniform(0.2, 0.8), height * rng.uniform(0.45, 0.95)])
    elif chance < 0.2 + 1 / 6:
        tall = height * rng.uniform(1.0, 1.7)
        foot = np.array([width * rng.uniform(0.4, 0.6), height * 0.5 + tall * rng.uniform(0.4, 0.8)])
    else:
        tall = height * rng.uniform(0.45, 1.0)
        foot = np.array([width * rng.uniform(0.3, 0.7), height * 0.5 + tall * rng.uniform(0.38, 0.58)])
    shadow = float(rng.choice([0, 0.25, 0.5]))
    return View(tall, stretch, foot, rng.uniform(0.0, 0.6), rng.normal(0, 0.05), shadow)


def _paint_figure(canvas: Canvas, points: Points, body: Body, view: View, camera: Camera) -> None:
    middle = len(points["head"]) // 2

    def depth(part: tuple[str, str, Texture, float]) -> float:
        return float(points[part[0]][middle, 2] + points[part[1]][middle, 2])

    parts = sorted(body.capsules(), key=depth)  # painter's algorithm: far to near, as at mid-clip
    starts, ends = [points[part[0]] for part in parts], [points[part[1]] for part in parts]
    radii = [max(part[3] * view.height, 0.45) for part in parts]
    textures = [part[2] for part in parts]
    if view.shadow > 0:
        below, reach = points["pelvis"] * [1, 0, 1], np.array([0.12, 0, 0])
        starts, ends, radii = [below - reach, *starts], [below + reach, *ends], [0.045 * view.height, *radii]
        black = np.zeros(3, np.float32)
        textures = [Texture(black, black, "plain", 1, opacity=view.shadow), *textures]
    placed = camera.place(view.project(np.array([starts, ends])), canvas.pixels.shape[2:])
    canvas.capsules(placed[0], placed[1], np.array(radii)[:, None] * camera.zoom, textures)


def _moments(n_frames: int, rng: np.random.Generator, seconds: float | None) -> Array:
    # A training clip is a short part near the middle of the action; a rendered video shows all of it.
    if seconds is not None:
        return np.linspace(-seconds / 2, seconds / 2, n_frames)
    even = np.arange(n_frames) / (n_frames - 1) - 0.5
    return even * rng.uniform(0.45, 1.3) + rng.normal(0, 0.18)


def paint_figures(
    action: str, size: tuple[int, int, int], rng: np.random.Generator, *, seconds: float | None = None
) -> Canvas:
    """Paint figures doing an action; ``size`` is T, H, W; with ``seconds`` that much of it, as in a video."""
    n_frames, height, width = size
    time = _moments(n_frames, rng, seconds) * rng.uniform(0.75, 1.35)
    scene = Scene(time, rng, Pose(n_frames), Pose(n_frames))
    ACTIONS[action](scene)
    if scene.gap is None and rng.random() < 0.5:
        scene.gap = np.full(n_frames, rng.uniform(0.5, 1.3))  # a bystander
    people = [*_people(scene, rng), *_passers_by(time, rng)]
    view = _random_view(scene, (height, width), rng)
    camera = moving_camera(n_frames, height, rng)
    if rng.random() < 0.2 or seconds is not None:
        path = view.project(people[0][0]["pelvis"])
        camera = replace(camera, shift=camera.shift - (path - path.mean(axis=0)))  # follow the actor
    background = random_background(rng, int(height * 1.15), int(width * 1.15))
    canvas = Canvas(camera.view(background, (height, width)))
    for points, body in sorted(people, key=lambda person: float(person[0]["pelvis"][:, 2].mean())):
        _paint_figure(canvas, points, body, view, camera)
    return canvas


def _passers_by(time: Array, rng: np.random.Generator) -> list[tuple[Points, Body]]:
    """Return one or two people further back who stand, walk or turn, in a quarter of scenes."""
    found = []
    for _ in range((0, 0, 0, 0, 0, 0, 1, 2)[rng.integers(8)]):
        scene = Scene(time, rng, Pose(len(time)), Pose(len(time)))
        ACTIONS[("stand", "walk", "turn")[rng.integers(3)]](scene)
        body = _random_body(rng)
        place = np.array([rng.choice([-1, 1]) * rng.uniform(0.4, 1.6), -rng.uniform(0.2, 1.2)])
        facing = rng.uniform(0, 2 * HALF_TURN) + scene.actor.turn
        points = _skeleton(scene.actor, body.lengths)
        found.append((_placed(points, facing, np.tile(place, (len(time), 1))), body))
    return found


def _people(scene: Scene, rng: np.random.Generator) -> list[tuple[Points, Body]]:
    """Return the skeletons of a scene in the world, the actor's first, and their bodies."""
    bodies = _random_body(rng), _random_body(rng)
    actor, partner = (
        _skeleton(pose, body.lengths) for pose, body in zip((scene.actor, scene.partner), bodies, strict=True)
    )
    if scene.gap is None:
        facing = rng.uniform(0, 2 * HALF_TURN)
        return [(_placed(actor, facing + scene.actor.turn, np.zeros((len(scene.time), 2))), bodies[0])]
    facing = rng.choice([0, HALF_TURN]) + rng.normal(0, 0.35)
    half = 0.5 * scene.gap[:, None] * np.array([np.cos(facing), np.sin(facing)])
    back = facing + HALF_TURN + (0 if scene.rng.random() < 0.85 else rng.normal(0, 1.0))
    return [
        (_placed(actor, facing + scene.actor.turn, -half), bodies[0]),
        (_placed(partner, back + scene.partner.turn, half), bodies[1]),
    ]
