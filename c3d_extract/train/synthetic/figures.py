"""Jointed puppets that walk, wave, kick, shake hands: everyday motions from parametric joint curves.

A puppet is a skeleton in three dimensions (forward, up, left of its own), turned to a viewing angle and
projected in parallel, and drawn as rods from far to near. Lengths are in body heights, angles in
radians, time in seconds from the middle of the action. An action is a function that bends the joints of
an actor, and of a partner where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.train.synthetic.camera import Camera
from c3d_extract.train.synthetic.canvas import Array, Canvas, Look
from c3d_extract.train.synthetic.ground import random_colour, random_ground
from c3d_extract.train.synthetic.shapes import camera_shake

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ACTIONS", "paint_figures"]

HALF_TURN = np.pi


class Pose:
    """Joint curves of one puppet over T moments; zero is standing upright, arms down.

    Attributes
    ----------
    advance, rise
        Where the body is along its own forward direction, and how high it jumps (T,).
    turn, torso
        Turning on the spot; bending forward at the hips (T,).
    arm_pitch, arm_spread
        Upper arm forward and up (half a turn: straight up), and out to the side (2, T), left then right.
    elbow, elbow_spread
        How far the forearm goes beyond the upper arm, in the same two senses (2, T).
    hip, knee
        Thigh forward, shin back (2, T).
    """

    def __init__(self, n_moments: int) -> None:
        self.advance, self.rise, self.turn, self.torso = np.zeros((4, n_moments))
        joints = np.zeros((6, 2, n_moments))
        self.arm_pitch, self.arm_spread, self.elbow, self.elbow_spread, self.hip, self.knee = joints


@dataclass
class Scene:
    """What an action gets: time (T,) in seconds, chance, the actor, and a partner a ``gap`` (T,) away.

    ``gap`` is None where nobody else takes part.
    """

    time: Array
    rng: np.random.Generator
    actor: Pose
    partner: Pose
    gap: Array | None = None
    side: int = field(init=False)

    def __post_init__(self) -> None:
        self.side = int(self.rng.integers(2))

    def pulse(self, rise: float, hold: float, start: float = 0.0) -> Array:
        """Go smoothly from 0 to 1 in ``rise`` seconds, stay for ``hold`` around ``start``, and back."""
        since = np.abs(self.time - start) - hold / 2
        share = np.clip(1 - since / rise, 0, 1)
        smooth: Array = share * share * (3 - 2 * share)
        return smooth

    def step(self, start: float, length: float) -> Array:
        """Go smoothly from 0 to 1 between ``start`` and ``start + length`` seconds, and stay."""
        share = np.clip((self.time - start) / length, 0, 1)
        smooth: Array = share * share * (3 - 2 * share)
        return smooth

    def wave(self, hertz: float) -> Array:
        """Return a sine of a random phase."""
        wave: Array = np.sin(2 * np.pi * (hertz * self.time + self.rng.random()))
        return wave

    def uniform(self, low: float, high: float) -> float:
        """Return a random number."""
        return float(self.rng.uniform(low, high))


def _stride(pose: Pose, distance: Array, length: float, swing: float) -> None:
    """Let the legs walk ``distance`` (T,), in body heights, and the arms swing against them."""
    pace = np.minimum(np.abs(np.gradient(distance)) * len(distance) / 1.5, 1) if np.ptp(distance) > 0 else 0
    phase = 2 * np.pi * distance / length
    for leg, sign in enumerate((1.0, -1.0)):
        pose.hip[leg] += sign * swing * np.sin(phase) * pace
        pose.knee[leg] += swing * (0.25 + 1.1 * np.maximum(np.cos(phase) * sign, 0)) * pace
        pose.arm_pitch[leg] -= sign * 0.8 * swing * np.sin(phase) * pace


def _stand(scene: Scene) -> None:
    scene.actor.torso += 0.03 * scene.wave(scene.uniform(0.1, 0.4))
    scene.actor.arm_pitch += 0.06 * scene.wave(scene.uniform(0.1, 0.5))


def _walk(scene: Scene) -> None:
    distance = scene.uniform(0.45, 0.85) * scene.time + scene.rng.random()
    _gait(scene.actor, distance, length=scene.uniform(0.65, 0.85), swing=scene.uniform(0.35, 0.55))
    scene.actor.torso += 0.05


def _gait(pose: Pose, distance: Array, *, length: float, swing: float) -> None:
    phase = 2 * np.pi * distance / length
    pose.advance += distance - distance.mean()
    for leg, sign in enumerate((1.0, -1.0)):
        pose.hip[leg] += sign * swing * np.sin(phase)
        pose.knee[leg] += swing * (0.2 + 1.3 * np.maximum(np.cos(phase) * sign, 0))
        pose.arm_pitch[leg] -= sign * 0.8 * swing * np.sin(phase)
        pose.elbow[leg] += 0.25


def _run(scene: Scene) -> None:
    distance = scene.uniform(1.6, 2.8) * scene.time + scene.rng.random()
    length, swing = scene.uniform(1.2, 1.6), scene.uniform(0.75, 1.0)
    _gait(scene.actor, distance, length=length, swing=swing)
    scene.actor.elbow += 1.3
    scene.actor.torso += scene.uniform(0.15, 0.35)
    scene.actor.rise += 0.04 * (1 + np.cos(4 * np.pi * distance / length))


def _jump(scene: Scene) -> None:
    period = scene.uniform(0.7, 1.2)
    phase = (scene.time / period + 0.5) % 1.0 - 0.5
    air = np.clip(1 - (phase / 0.28) ** 2, 0, None)
    crouch = np.exp(-(((np.abs(phase) - 0.4) / 0.1) ** 2))
    scene.actor.rise += scene.uniform(0.12, 0.3) * air
    scene.actor.hip += 0.8 * crouch
    scene.actor.knee += 1.5 * crouch
    scene.actor.torso += 0.5 * crouch
    reach = scene.uniform(0.3, 2.8)
    if scene.rng.random() < 0.5:
        scene.actor.arm_spread += reach * air
    else:
        scene.actor.arm_pitch += reach * air - 0.5 * crouch


def _wave(scene: Scene) -> None:
    up = scene.pulse(0.5, scene.uniform(1.5, 4))
    hertz, reach = scene.uniform(1.2, 3), scene.uniform(0.35, 0.7)
    sides = (0, 1) if scene.rng.random() < 0.25 else (scene.side,)
    swing = reach * scene.wave(hertz)
    for side in sides:
        scene.actor.arm_spread[side] += scene.uniform(1.5, 2.3) * up
        scene.actor.elbow_spread[side] += (scene.uniform(0.6, 1.0) + swing) * up


def _bend(scene: Scene) -> None:
    down = scene.pulse(scene.uniform(0.5, 1.0), scene.uniform(0, 0.8))
    scene.actor.torso += scene.uniform(1.0, 1.8) * down
    scene.actor.arm_pitch += scene.uniform(0.3, 1.2) * down
    knees = scene.uniform(0, 0.9)
    scene.actor.hip += knees * 0.5 * down
    scene.actor.knee += knees * down


def _clap(scene: Scene) -> None:
    up = scene.pulse(0.4, scene.uniform(1.5, 4))
    apart = 0.35 + 0.45 * scene.wave(scene.uniform(1.5, 4))
    high = scene.uniform(0.4, 1.3)
    scene.actor.arm_pitch += high * up
    scene.actor.elbow += (1.5 - high * 0.6) * up
    scene.actor.arm_spread += 0.5 * apart * up
    scene.actor.elbow_spread += (apart - 0.45) * up


def _kick(scene: Scene) -> None:
    out = scene.pulse(scene.uniform(0.18, 0.35), scene.uniform(0, 0.15))
    cocked = scene.pulse(0.3, 0.1, start=-0.28)
    scene.actor.hip[scene.side] += scene.uniform(1.1, 2.0) * out + 0.5 * cocked
    scene.actor.knee[scene.side] += 1.5 * cocked * (1 - out) + 0.1
    scene.actor.torso -= scene.uniform(0.1, 0.6) * out
    scene.actor.arm_spread += scene.uniform(0.1, 0.8) * out
    scene.actor.elbow += 0.4
    _strike(scene, near=scene.uniform(0.42, 0.62), weight=scene.uniform(0.2, 0.6))


def _punch(scene: Scene) -> None:
    out = scene.pulse(scene.uniform(0.12, 0.25), scene.uniform(0, 0.12))
    guard = scene.pulse(0.4, 0.4)
    scene.actor.arm_pitch[scene.side] += 0.5 * guard * (1 - out) + scene.uniform(1.35, 1.7) * out
    scene.actor.elbow[scene.side] += 1.9 * guard * (1 - out)
    if scene.rng.random() < 0.6:
        scene.actor.arm_pitch[1 - scene.side] += 0.5 * guard
        scene.actor.elbow[1 - scene.side] += 1.7 * guard
    scene.actor.torso += scene.uniform(0.05, 0.35) * out
    scene.actor.hip[scene.side] -= 0.3 * guard
    scene.actor.hip[1 - scene.side] += 0.4 * guard
    scene.actor.knee[1 - scene.side] += 0.3 * guard
    _strike(scene, near=scene.uniform(0.36, 0.5), weight=scene.uniform(0.4, 0.9))


def _push(scene: Scene) -> None:
    out = scene.pulse(scene.uniform(0.25, 0.45), scene.uniform(0.05, 0.4))
    ready = scene.pulse(0.4, 0.2, start=-0.4)
    scene.actor.arm_pitch += 0.6 * ready * (1 - out) + scene.uniform(1.25, 1.6) * out
    scene.actor.elbow += 1.6 * ready * (1 - out)
    scene.actor.torso += scene.uniform(0.15, 0.5) * out
    scene.actor.hip[scene.side] -= 0.6 * out
    scene.actor.hip[1 - scene.side] += 0.5 * out
    scene.actor.knee[1 - scene.side] += 0.5 * out
    _strike(scene, near=scene.uniform(0.34, 0.46), weight=0.2)
    if scene.gap is not None:
        scene.gap += scene.uniform(0.2, 0.9) * scene.step(0.0, scene.uniform(0.4, 0.9))
        _stride(scene.partner, scene.gap, 0.5, 0.5)


def _strike(scene: Scene, *, near: float, weight: float) -> None:
    """Bring the partner near and make it recoil; now and then the blow goes into the air."""
    if scene.rng.random() < 0.15:
        return
    _meet(scene, near=near, hold=scene.uniform(0.3, 0.7))
    hit = scene.step(0.0, 0.2) * (1 - scene.step(scene.uniform(0.3, 0.7), 0.7))
    scene.partner.torso += scene.rng.choice([-1, -1, 1]) * weight * hit
    scene.partner.advance -= 0.15 * weight * hit
    scene.partner.arm_pitch += scene.uniform(0, 1.2) * hit
    scene.partner.elbow += scene.uniform(0, 1.4) * hit
    scene.partner.hip[scene.side] += 0.4 * weight * hit


def _meet(scene: Scene, *, near: float, hold: float) -> None:
    """Two walk up to each other and apart again."""
    far = near + scene.uniform(0.3, 0.9)
    approach, leave = scene.uniform(0.5, 0.9), scene.uniform(0.6, 1.2)
    close = scene.step(-hold - approach, approach) * (1 - scene.step(hold + 0.2, leave))
    scene.gap = far - (far - near) * close
    _stride(scene.actor, scene.gap, 0.6, 0.45)
    _stride(scene.partner, scene.gap, 0.6, 0.45)


def _point(scene: Scene) -> None:
    up = scene.pulse(scene.uniform(0.3, 0.7), scene.uniform(0.3, 1.5))
    scene.actor.arm_pitch[scene.side] += scene.uniform(1.25, 1.75) * up
    scene.actor.elbow[scene.side] += 0.4 * up * (1 - up)
    scene.actor.arm_spread[scene.side] += scene.uniform(-0.2, 0.4) * up


def _shake_hands(scene: Scene) -> None:
    _meet(scene, near=scene.uniform(0.44, 0.56), hold=scene.uniform(0.5, 1.2))
    out = scene.pulse(scene.uniform(0.3, 0.6), scene.uniform(0.5, 1.4))
    shaking = scene.uniform(0.05, 0.22) * scene.wave(scene.uniform(1.5, 3.5)) * out
    for pose in (scene.actor, scene.partner):
        pose.arm_pitch[1] += (scene.uniform(0.7, 1.05) + shaking) * out
        pose.elbow[1] += (scene.uniform(0.3, 0.6) + shaking) * out
        pose.torso += scene.uniform(0, 0.15) * out


def _hug(scene: Scene) -> None:
    _meet(scene, near=scene.uniform(0.12, 0.2), hold=scene.uniform(0.4, 1.0))
    out = scene.pulse(scene.uniform(0.5, 0.9), scene.uniform(0.6, 1.6))
    for pose in (scene.actor, scene.partner):
        pose.arm_pitch += scene.uniform(1.1, 1.6) * out
        pose.arm_spread += scene.uniform(0.1, 0.3) * out
        pose.elbow += scene.uniform(0, 0.5) * out
        pose.elbow_spread -= scene.uniform(0.5, 0.9) * out
        pose.torso += scene.uniform(0.05, 0.25) * out


def _sit_down(scene: Scene) -> None:
    down = scene.step(-0.5, scene.uniform(0.7, 1.2))
    scene.actor.hip += 1.55 * down
    scene.actor.knee += 1.5 * down
    scene.actor.torso += 0.7 * scene.pulse(0.5, 0.1)
    scene.actor.arm_pitch += scene.uniform(0.3, 0.9) * down
    scene.actor.advance -= 0.2 * down


def _turn(scene: Scene) -> None:
    way = scene.rng.choice([-1, 1]) * scene.uniform(1.5, 2 * HALF_TURN)
    scene.actor.turn += way * (scene.step(-0.7, scene.uniform(1.2, 1.8)) - 0.5)
    _stride(scene.actor, 0.25 * scene.actor.turn, 0.4, 0.3)


ACTIONS: dict[str, Callable[[Scene], None]] = {
    "stand": _stand,
    "walk": _walk,
    "run": _run,
    "jump": _jump,
    "wave": _wave,
    "bend": _bend,
    "clap": _clap,
    "kick": _kick,
    "punch": _punch,
    "push": _push,
    "point": _point,
    "shake-hands": _shake_hands,
    "hug": _hug,
    "sit-down": _sit_down,
    "turn": _turn,
}


@dataclass(frozen=True)
class Build:
    """Lengths and widths in body heights, and what somebody wears."""

    thigh: float
    shin: float
    torso: float
    upper_arm: float
    forearm: float
    shoulder: float
    hip: float
    head: float
    girth: float
    looks: dict[str, Look]


def _random_build(rng: np.random.Generator) -> Build:
    def about(length: float) -> float:
        return length * float(rng.uniform(0.88, 1.12))

    skin = np.array([0.45, 0.55, 0.75]) * rng.uniform(0.35, 1.25) + rng.normal(0, 0.03, 3)
    top, trousers = _clothes(rng), _clothes(rng)
    bare = Look(skin.clip(0, 1).astype(np.float32), skin.astype(np.float32), "plain", 1)
    plain_top = replace(top, pattern="plain")
    dark = np.full(3, rng.uniform(0, 0.35), np.float32)
    looks = {
        "torso": top,
        "upper_arm": plain_top,
        "forearm": plain_top if rng.random() < 0.5 else bare,
        "thigh": trousers,
        "shin": bare if rng.random() < 0.2 else trousers,
        "hand": bare,
        "head": bare,
        "hair": Look(dark * np.float32(2.2 if rng.random() < 0.25 else 1), dark, "plain", 1),
        "shoe": Look(random_colour(rng), dark, "plain", 1),
    }
    return Build(
        thigh=about(0.24),
        shin=about(0.24),
        torso=about(0.29),
        upper_arm=about(0.17),
        forearm=about(0.19),
        shoulder=about(0.105),
        hip=about(0.05),
        head=about(0.065),
        girth=float(rng.uniform(0.8, 1.4)),
        looks=looks,
    )


def _clothes(rng: np.random.Generator) -> Look:
    colour = random_colour(rng)
    step = np.float32(rng.uniform(0.15, 0.6) * (-1 if colour.mean() > 0.5 else 1))
    second = np.minimum(np.maximum(colour + step, np.float32(0)), np.float32(1))
    pattern = ("plain", "plain", "plain", "stripes", "checks")[rng.integers(5)]
    return Look(colour, second, pattern, rng.uniform(1.5, 4))


Points = dict[str, Array]


SIDES = np.array([[1.0], [-1.0]])
"""Left, right."""


def _arms(pose: Pose, build: Build) -> tuple[Array, Array]:
    # Elbows and hands from the shoulders, (2, T, 3) in the torso's forward, up, left.
    def rod(pitch: Array, spread: Array, length: float) -> Array:
        across = np.cos(spread)
        return length * np.stack(
            [np.sin(pitch) * across, -np.cos(pitch) * across, SIDES * np.sin(spread)], axis=-1
        )

    pitch, spread = pose.arm_pitch, pose.arm_spread + 0.12
    elbow = rod(pitch, spread, build.upper_arm)
    return elbow, elbow + rod(pitch + pose.elbow + 0.1, spread + pose.elbow_spread, build.forearm)


def _legs(pose: Pose, build: Build) -> tuple[Array, Array]:
    # Knees and ankles from the hip joints, (2, T, 3) in the body's forward, up, left.
    thigh, shin = pose.hip, pose.hip - pose.knee
    still = np.zeros_like(thigh)
    knee = build.thigh * np.stack([np.sin(thigh), -np.cos(thigh), still], axis=-1)
    return knee, knee + build.shin * np.stack([np.sin(shin), -np.cos(shin), still], axis=-1)


def _torso_axes(torso: Array) -> Array:
    # The torso's forward, up and left (T, 3, 3), each in the body's.
    axes = np.zeros((len(torso), 3, 3))
    axes[:, 0, 0] = axes[:, 1, 1] = np.cos(torso)
    axes[:, 1, 0] = np.sin(torso)
    axes[:, 0, 1] = -axes[:, 1, 0]
    axes[:, 2, 2] = 1
    return axes


def _skeleton(pose: Pose, build: Build) -> Points:
    """Joints (T, 3) in the body's forward, up, left; the lower foot stands on the ground unless it jumps."""
    knee, ankle = _legs(pose, build)
    pelvis = np.zeros((len(pose.rise), 3))
    pelvis[:, 0] = pose.advance
    pelvis[:, 1] = -ankle[..., 1].min(axis=0) + 0.03 + pose.rise
    axes = _torso_axes(pose.torso)
    neck = pelvis + build.torso * axes[:, 1]
    head = neck + (0.03 + build.head) * axes[:, 1] + 0.01 * axes[:, 0]
    hair = head + 0.03 * axes[:, 1] - 0.02 * axes[:, 0]
    points = {"pelvis": pelvis, "neck": neck, "head": head, "hair": hair}
    to_side = SIDES[..., None] * [0, 0, 1]
    shoulder, hip = neck - 0.03 * axes[:, 1] + build.shoulder * to_side, pelvis + build.hip * to_side
    elbow, hand = (shoulder + np.einsum("sti,tij->stj", joint, axes) for joint in _arms(pose, build))
    knee, ankle = hip + knee, hip + ankle
    pairs = {"shoulder": shoulder, "elbow": elbow, "hand": hand, "hip": hip, "knee": knee, "ankle": ankle}
    pairs["toe"] = ankle + np.array([0.08, -0.01, 0])
    for name, (left, right) in pairs.items():
        points |= {f"left {name}": left, f"right {name}": right}
    return points


RODS = (
    ("hip", "knee", "thigh", 0.048),
    ("knee", "ankle", "shin", 0.034),
    ("ankle", "toe", "shoe", 0.024),
    ("shoulder", "elbow", "upper_arm", 0.033),
    ("elbow", "hand", "forearm", 0.024),
    ("hand", "hand", "hand", 0.026),
)
"""From joint, to joint, look, radius in body heights."""


@dataclass(frozen=True)
class View:
    """How the world (x along the picture, up, towards the camera; body heights) becomes pixels.

    Attributes
    ----------
    height, stretch
        Pixels a body height; how much wider than high things come out.
    foot
        Pixels x, y of the world's origin on the ground.
    elevation
        How far the camera looks down, radians.
    """

    height: float
    stretch: float
    foot: Array
    elevation: float

    def project(self, points: Array) -> Array:
        """Bring points (…, 3) to pixels (…, 2)."""
        up = points[..., 1] * np.cos(self.elevation) - points[..., 2] * np.sin(self.elevation)
        pixels: Array = self.foot + self.height * np.stack([points[..., 0] * self.stretch, -up], axis=-1)
        return pixels


def _world(points: Points, facing: Array, where: Array) -> Points:
    """Turn a body to ``facing`` (T,), 0 along x, a quarter turn to the camera; put it at ``where`` (T, 2)."""
    cos, sin = np.cos(facing), np.sin(facing)
    body = np.stack(list(points.values()))
    forward, up, left = body[..., 0], body[..., 1], body[..., 2]
    turned = np.stack(
        [where[:, 0] + forward * cos + left * sin, up, where[:, 1] + forward * sin - left * cos], axis=-1
    )
    return dict(zip(points, turned, strict=True))


SHADE = Look(np.zeros(3, np.float32), np.zeros(3, np.float32), "plain", 1)


def _paint_puppet(
    canvas: Canvas, points: Points, build: Build, *, view: View, camera: Camera, shadow: float
) -> None:
    rods = sorted(_rods(build), key=lambda rod: _nearness(points, rod))
    starts, ends = [points[rod[0]] for rod in rods], [points[rod[1]] for rod in rods]
    scale = view.height * float(camera.zoom.mean())
    radii = [max(rod[3] * scale, 0.45) for rod in rods]
    looks = [build.looks[rod[2]] for rod in rods]
    if shadow > 0:
        below, reach = points["pelvis"] * [1, 0, 1], np.array([0.12, 0, 0])
        starts, ends = [below - reach, *starts], [below + reach, *ends]
        radii, looks = [0.045 * scale, *radii], [replace(SHADE, strength=shadow), *looks]
    placed = camera.place(view.project(np.array([starts, ends])), canvas.pixels.shape[2:])
    canvas.rods(placed[0], placed[1], np.array(radii), looks)


Rod = tuple[str, str, str, float]


def _rods(build: Build) -> list[Rod]:
    girth = build.girth
    body: list[Rod] = [
        ("pelvis", "neck", "torso", 0.085 * girth),
        ("left shoulder", "right shoulder", "upper_arm", 0.04 * girth),
        ("neck", "head", "head", 0.03),
        ("head", "head", "head", build.head),
        ("hair", "hair", "hair", build.head * 0.95),
    ]
    for side in ("left", "right"):
        body += [
            (f"{side} {start}", f"{side} {end}", look, radius * girth) for start, end, look, radius in RODS
        ]
    return body


def _nearness(points: Points, rod: Rod) -> float:
    # Painter's order: towards the camera in the middle of the clip.
    middle = len(points["head"]) // 2
    return float(points[rod[0]][middle, 2] + points[rod[1]][middle, 2])


def _moments(n_frames: int, rng: np.random.Generator, seconds: float | None) -> Array:
    # A training clip is a short look somewhere around the middle; a rendered video shows all of it.
    if seconds is not None:
        return np.linspace(-seconds / 2, seconds / 2, n_frames)
    even = np.arange(n_frames) / (n_frames - 1) - 0.5
    return even * rng.uniform(0.45, 1.3) + rng.normal(0, 0.18)


def paint_figures(
    action: str, size: tuple[int, int, int], rng: np.random.Generator, *, seconds: float | None = None
) -> Canvas:
    """Paint puppets doing an action; ``size`` is T, H, W; with ``seconds`` that much of it, as in a video."""
    n_frames, height, width = size
    scene = Scene(
        _moments(n_frames, rng, seconds) * rng.uniform(0.75, 1.35), rng, Pose(n_frames), Pose(n_frames)
    )
    ACTIONS[action](scene)
    if scene.gap is None and rng.random() < 0.5:
        scene.gap = np.full(n_frames, rng.uniform(0.5, 1.3))  # somebody stands by
    camera = Camera(camera_shake(n_frames, height, rng), np.ones(n_frames))
    ground = random_ground(rng, int(height * 1.15), int(width * 1.15))
    canvas = Canvas(camera.view(ground, (height, width)))
    view = _random_view(scene, (height, width), rng)
    shadow = float(rng.choice([0, 0.25, 0.5]))
    for points, build in sorted(
        _people(scene, rng), key=lambda person: float(person[0]["pelvis"][:, 2].mean())
    ):
        _paint_puppet(canvas, points, build, view=view, camera=camera, shadow=shadow)
    return canvas


def _random_view(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> View:
    height, width = size
    tall = height * rng.uniform(0.45, 1.0)
    stretch = rng.uniform(0.65, 1.5) * (1.0 if scene.gap is None else 0.85)
    foot = np.array([width * rng.uniform(0.35, 0.65), height * 0.5 + tall * rng.uniform(0.38, 0.58)])
    return View(tall, stretch, foot, rng.uniform(0.0, 0.45))


def _people(scene: Scene, rng: np.random.Generator) -> list[tuple[Points, Build]]:
    """Return the puppets of a scene in the world, the actor first, and how they are built."""
    builds = _random_build(rng), _random_build(rng)
    actor = _skeleton(scene.actor, builds[0])
    n_moments = len(scene.time)
    if scene.gap is None:
        facing = rng.uniform(0, 2 * HALF_TURN)
        return [(_world(actor, facing + scene.actor.turn, np.zeros((n_moments, 2))), builds[0])]
    facing = rng.choice([0, HALF_TURN]) + rng.normal(0, 0.35)
    ahead = np.array([np.cos(facing), np.sin(facing)])
    half = 0.5 * scene.gap[:, None] * ahead
    back = facing + HALF_TURN + (0 if scene.rng.random() < 0.85 else rng.normal(0, 1.0))
    partner = _world(_skeleton(scene.partner, builds[1]), back + scene.partner.turn, half)
    return [(_world(actor, facing + scene.actor.turn, -half), builds[0]), (partner, builds[1])]
