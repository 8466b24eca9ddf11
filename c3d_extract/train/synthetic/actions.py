"""Everyday motions as joint curves: an action bends the joints of an actor, and of a partner if there is one.

Angles are in radians, lengths in body heights, time in seconds from the middle of the action.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from c3d_extract.train.synthetic.canvas import Array

__all__ = ["ACTIONS", "HALF_TURN", "Pose", "Scene"]

HALF_TURN = np.pi


class Pose:
    """Joint curves of one figure over T moments; zero is standing upright, arms down.

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

    def bend(self, side: int | None = None, **changes: Array | float) -> None:
        """Add to the curves of these names, of both sides or of one."""
        for name, change in changes.items():
            curve = getattr(self, name)
            curve[... if side is None else side] += change


@dataclass
class Scene:
    """Input and output of an action: time (T,), random numbers, the actor, and a partner a ``gap`` (T,) away.

    ``gap`` is None if there is no partner; ``side`` (0 or 1) is the hand or foot that acts.
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
        """Return a curve: 0 to 1 in ``rise`` seconds, 1 for ``hold`` around ``start``, and back to 0."""
        return _smooth(1 - (np.abs(self.time - start) - hold / 2) / rise)

    def step(self, start: float, length: float) -> Array:
        """Return a curve that rises smoothly from 0 to 1 between ``start`` and ``start + length`` seconds."""
        return _smooth((self.time - start) / length)

    def wave(self, hertz: float) -> Array:
        """Return a sine of a random phase."""
        wave: Array = np.sin(2 * np.pi * (hertz * self.time + self.rng.random()))
        return wave

    def uniform(self, low: float, high: float) -> float:
        """Return a random number."""
        return float(self.rng.uniform(low, high))


def _smooth(fraction: Array) -> Array:
    fraction = np.clip(fraction, 0, 1)
    smooth: Array = fraction * fraction * (3 - 2 * fraction)
    return smooth


def _swing_legs(
    pose: Pose,
    distance: Array,
    *,
    length: float,
    swing: float,
    lift: tuple[float, float],
    pace: Array | float,
) -> None:
    """Add steps of ``length`` along ``distance`` (T,), with the arms swinging opposite to the legs."""
    phase = 2 * np.pi * distance / length
    for leg, sign in enumerate((1.0, -1.0)):
        knee = swing * (lift[0] + lift[1] * np.maximum(np.cos(phase) * sign, 0)) * pace
        pose.bend(leg, hip=sign * swing * np.sin(phase) * pace, knee=knee)
        pose.bend(leg, arm_pitch=-(sign * 0.8 * swing * np.sin(phase) * pace))


def _follow(pose: Pose, distance: Array, length: float, swing: float) -> None:
    """Add steps only where ``distance`` (T,) changes."""
    pace = np.minimum(np.abs(np.gradient(distance)) * len(distance) / 1.5, 1) if np.ptp(distance) > 0 else 0
    _swing_legs(pose, distance, length=length, swing=swing, lift=(0.25, 1.1), pace=pace)


def _gait(pose: Pose, distance: Array, *, length: float, swing: float) -> None:
    """Walk or run steadily along ``distance`` (T,)."""
    pose.bend(advance=distance - distance.mean(), elbow=0.25)
    _swing_legs(pose, distance, length=length, swing=swing, lift=(0.2, 1.3), pace=1.0)


def _stand(scene: Scene) -> None:
    scene.actor.bend(torso=0.03 * scene.wave(scene.uniform(0.1, 0.4)))
    scene.actor.bend(arm_pitch=0.06 * scene.wave(scene.uniform(0.1, 0.5)))


def _walk(scene: Scene) -> None:
    distance = scene.uniform(0.45, 0.85) * scene.time + scene.rng.random()
    _gait(scene.actor, distance, length=scene.uniform(0.65, 0.85), swing=scene.uniform(0.35, 0.55))
    scene.actor.bend(torso=0.05)


def _run(scene: Scene) -> None:
    distance = scene.uniform(1.6, 2.8) * scene.time + scene.rng.random()
    length, swing = scene.uniform(1.2, 1.6), scene.uniform(0.75, 1.0)
    _gait(scene.actor, distance, length=length, swing=swing)
    bounce = 0.04 * (1 + np.cos(4 * np.pi * distance / length))
    scene.actor.bend(elbow=1.3, torso=scene.uniform(0.15, 0.35), rise=bounce)


def _jump(scene: Scene) -> None:
    period = scene.uniform(0.7, 1.2)
    phase = (scene.time / period + 0.5) % 1.0 - 0.5
    air = np.clip(1 - (phase / 0.28) ** 2, 0, None)
    crouch = np.exp(-(((np.abs(phase) - 0.4) / 0.1) ** 2))
    rise = scene.uniform(0.12, 0.3) * air
    scene.actor.bend(rise=rise, hip=0.8 * crouch, knee=1.5 * crouch, torso=0.5 * crouch)
    reach = scene.uniform(0.3, 2.8)
    if scene.rng.random() < 0.5:
        scene.actor.bend(arm_spread=reach * air)
    else:
        scene.actor.bend(arm_pitch=reach * air - 0.5 * crouch)


def _wave(scene: Scene) -> None:
    up = scene.pulse(0.5, scene.uniform(1.5, 4))
    hertz, reach = scene.uniform(1.2, 3), scene.uniform(0.35, 0.7)
    sides = (0, 1) if scene.rng.random() < 0.25 else (scene.side,)
    swing = reach * scene.wave(hertz)
    for side in sides:
        scene.actor.bend(side, arm_spread=scene.uniform(1.5, 2.3) * up)
        scene.actor.bend(side, elbow_spread=(scene.uniform(0.6, 1.0) + swing) * up)


def _bend(scene: Scene) -> None:
    down = scene.pulse(scene.uniform(0.5, 1.0), scene.uniform(0, 0.8))
    scene.actor.bend(torso=scene.uniform(1.0, 1.8) * down, arm_pitch=scene.uniform(0.3, 1.2) * down)
    knees = scene.uniform(0, 0.9)
    scene.actor.bend(hip=knees * 0.5 * down, knee=knees * down)


def _clap(scene: Scene) -> None:
    up = scene.pulse(0.4, scene.uniform(1.5, 4))
    apart = 0.35 + 0.45 * scene.wave(scene.uniform(1.5, 4))
    height = scene.uniform(0.4, 1.3)
    scene.actor.bend(arm_pitch=height * up, elbow=(1.5 - height * 0.6) * up)
    scene.actor.bend(arm_spread=0.5 * apart * up, elbow_spread=(apart - 0.45) * up)


def _kick(scene: Scene) -> None:
    out = scene.pulse(scene.uniform(0.18, 0.35), scene.uniform(0, 0.15))
    back = scene.pulse(0.3, 0.1, start=-0.28)
    scene.actor.bend(scene.side, hip=scene.uniform(1.1, 2.0) * out + 0.5 * back)
    scene.actor.bend(scene.side, knee=1.5 * back * (1 - out) + 0.1)
    lean, spread = -(scene.uniform(0.1, 0.6) * out), scene.uniform(0.1, 0.8) * out
    scene.actor.bend(torso=lean, arm_spread=spread, elbow=0.4)
    _strike(scene, near=scene.uniform(0.42, 0.62), weight=scene.uniform(0.2, 0.6))


def _punch(scene: Scene) -> None:
    out = scene.pulse(scene.uniform(0.12, 0.25), scene.uniform(0, 0.12))
    guard = scene.pulse(0.4, 0.4)
    side, other = scene.side, 1 - scene.side
    scene.actor.bend(side, arm_pitch=0.5 * guard * (1 - out) + scene.uniform(1.35, 1.7) * out)
    scene.actor.bend(side, elbow=1.9 * guard * (1 - out), hip=-(0.3 * guard))
    if scene.rng.random() < 0.6:
        scene.actor.bend(other, arm_pitch=0.5 * guard, elbow=1.7 * guard)
    scene.actor.bend(torso=scene.uniform(0.05, 0.35) * out)
    scene.actor.bend(other, hip=0.4 * guard, knee=0.3 * guard)
    _strike(scene, near=scene.uniform(0.36, 0.5), weight=scene.uniform(0.4, 0.9))


def _push(scene: Scene) -> None:
    out = scene.pulse(scene.uniform(0.25, 0.45), scene.uniform(0.05, 0.4))
    ready = scene.pulse(0.4, 0.2, start=-0.4)
    scene.actor.bend(arm_pitch=0.6 * ready * (1 - out) + scene.uniform(1.25, 1.6) * out)
    scene.actor.bend(elbow=1.6 * ready * (1 - out), torso=scene.uniform(0.15, 0.5) * out)
    scene.actor.bend(scene.side, hip=-(0.6 * out))
    scene.actor.bend(1 - scene.side, hip=0.5 * out, knee=0.5 * out)
    _strike(scene, near=scene.uniform(0.34, 0.46), weight=0.2)
    if scene.gap is not None:
        scene.gap += scene.uniform(0.2, 0.9) * scene.step(0.0, scene.uniform(0.4, 0.9))
        _follow(scene.partner, scene.gap, 0.5, 0.5)


def _strike(scene: Scene, *, near: float, weight: float) -> None:
    """Bring the partner near and make it recoil; in 15 % of scenes the strike has no target."""
    if scene.rng.random() < 0.15:
        return
    _meet(scene, near=near, hold=scene.uniform(0.3, 0.7))
    hit = scene.step(0.0, 0.2) * (1 - scene.step(scene.uniform(0.3, 0.7), 0.7))
    lean = scene.rng.choice([-1, -1, 1]) * weight * hit
    scene.partner.bend(torso=lean, advance=-(0.15 * weight * hit))
    scene.partner.bend(arm_pitch=scene.uniform(0, 1.2) * hit, elbow=scene.uniform(0, 1.4) * hit)
    scene.partner.bend(scene.side, hip=0.4 * weight * hit)


def _meet(scene: Scene, *, near: float, hold: float) -> None:
    """Make actor and partner approach each other and move apart again."""
    far = near + scene.uniform(0.3, 0.9)
    approach, leave = scene.uniform(0.5, 0.9), scene.uniform(0.6, 1.2)
    close = scene.step(-hold - approach, approach) * (1 - scene.step(hold + 0.2, leave))
    scene.gap = far - (far - near) * close
    _follow(scene.actor, scene.gap, 0.6, 0.45)
    _follow(scene.partner, scene.gap, 0.6, 0.45)


def _point(scene: Scene) -> None:
    up = scene.pulse(scene.uniform(0.3, 0.7), scene.uniform(0.3, 1.5))
    scene.actor.bend(scene.side, arm_pitch=scene.uniform(1.25, 1.75) * up, elbow=0.4 * up * (1 - up))
    scene.actor.bend(scene.side, arm_spread=scene.uniform(-0.2, 0.4) * up)


def _shake_hands(scene: Scene) -> None:
    _meet(scene, near=scene.uniform(0.44, 0.56), hold=scene.uniform(0.5, 1.2))
    out = scene.pulse(scene.uniform(0.3, 0.6), scene.uniform(0.5, 1.4))
    shaking = scene.uniform(0.05, 0.22) * scene.wave(scene.uniform(1.5, 3.5)) * out
    for pose in (scene.actor, scene.partner):
        pose.bend(1, arm_pitch=(scene.uniform(0.7, 1.05) + shaking) * out)
        pose.bend(1, elbow=(scene.uniform(0.3, 0.6) + shaking) * out)
        pose.bend(torso=scene.uniform(0, 0.15) * out)


def _hug(scene: Scene) -> None:
    _meet(scene, near=scene.uniform(0.12, 0.2), hold=scene.uniform(0.4, 1.0))
    out = scene.pulse(scene.uniform(0.5, 0.9), scene.uniform(0.6, 1.6))
    for pose in (scene.actor, scene.partner):
        pose.bend(arm_pitch=scene.uniform(1.1, 1.6) * out, arm_spread=scene.uniform(0.1, 0.3) * out)
        pose.bend(elbow=scene.uniform(0, 0.5) * out, elbow_spread=-(scene.uniform(0.5, 0.9) * out))
        pose.bend(torso=scene.uniform(0.05, 0.25) * out)


def _sit_down(scene: Scene) -> None:
    _sit(scene, scene.step(-0.5, scene.uniform(0.7, 1.2)))


def _sit(scene: Scene, down: Array) -> None:
    scene.actor.bend(hip=1.55 * down, knee=1.5 * down, torso=0.7 * scene.pulse(0.5, 0.1))
    scene.actor.bend(arm_pitch=scene.uniform(0.3, 0.9) * down, advance=-(0.2 * down))


def _turn(scene: Scene) -> None:
    angle = scene.rng.choice([-1, 1]) * scene.uniform(1.5, 2 * HALF_TURN)
    scene.actor.bend(turn=angle * (scene.step(-0.7, scene.uniform(1.2, 1.8)) - 0.5))
    _follow(scene.actor, 0.25 * scene.actor.turn, 0.4, 0.3)


def _stand_up(scene: Scene) -> None:
    _sit(scene, 1 - scene.step(-0.5, scene.uniform(0.7, 1.2)))


def _throw(scene: Scene) -> None:
    back = scene.pulse(scene.uniform(0.3, 0.5), 0.15, start=-0.35)
    out = scene.step(-0.12, scene.uniform(0.15, 0.3)) * (1 - scene.step(0.35, 0.5))
    raised, low = scene.uniform(2.2, 2.9), scene.uniform(0.8, 1.4)
    scene.actor.bend(scene.side, arm_pitch=raised * back * (1 - out) + low * out)
    scene.actor.bend(scene.side, elbow=scene.uniform(1.0, 1.8) * back * (1 - out))
    scene.actor.bend(1 - scene.side, arm_pitch=scene.uniform(0.3, 1.2) * back, hip=0.5 * out, knee=0.3 * out)
    twist = (1 - 2 * scene.side) * scene.uniform(0.2, 0.7)
    scene.actor.bend(torso=0.4 * out - 0.2 * back, turn=twist * (back - out))


def _swing(scene: Scene) -> None:
    # As with a bat, a racket or an axe: both arms and the body sweep around.
    way, start = scene.rng.choice([-1, 1]), scene.uniform(-0.3, -0.1)
    around = scene.step(start, scene.uniform(0.2, 0.45)) - 0.5
    back = scene.pulse(0.5, 0.2, start=start)
    scene.actor.bend(turn=way * scene.uniform(1.2, 2.4) * around, torso=scene.uniform(0.1, 0.5))
    scene.actor.bend(arm_pitch=scene.uniform(0.7, 1.4) + scene.uniform(0, 1.0) * back)
    scene.actor.bend(elbow=scene.uniform(0, 0.7) * back, elbow_spread=-0.4, hip=0.25, knee=0.4)


def _squat(scene: Scene) -> None:
    down = 0.5 + 0.5 * scene.wave(scene.uniform(0.4, 0.9))
    depth = scene.uniform(0.6, 1.0)
    scene.actor.bend(hip=1.7 * depth * down, knee=2.4 * depth * down, torso=0.7 * depth * down)
    scene.actor.bend(arm_pitch=scene.uniform(0, 1.5) * (down if scene.rng.random() < 0.5 else 1))


def _arms_up_jump(scene: Scene) -> None:
    phase = 0.5 + 0.5 * scene.wave(scene.uniform(0.8, 1.8))
    scene.actor.bend(arm_spread=scene.uniform(2.2, 2.8) * phase)
    scene.actor.bend(rise=scene.uniform(0.03, 0.12) * (4 * phase * (1 - phase)), knee=0.3 * (1 - phase))


def _lift(scene: Scene) -> None:
    up = np.clip(0.5 + 0.8 * scene.wave(scene.uniform(0.3, 0.8)), 0, 1)
    low, elbow = scene.uniform(0.3, 0.8), scene.uniform(1.7, 2.2)
    scene.actor.bend(arm_pitch=low + (2.9 - low) * up, elbow=elbow * (1 - up))
    scene.actor.bend(arm_spread=scene.uniform(0, 0.3), knee=0.3 * (1 - up), hip=0.15 * (1 - up))


def _drink(scene: Scene) -> None:
    up = scene.pulse(scene.uniform(0.4, 0.8), scene.uniform(0.2, 1.5))
    scene.actor.bend(scene.side, arm_pitch=scene.uniform(0.6, 1.1) * up, elbow=scene.uniform(1.8, 2.2) * up)
    scene.actor.bend(torso=-(scene.uniform(0, 0.15) * up))


def _row(scene: Scene) -> None:
    pull = 0.5 + 0.5 * scene.wave(scene.uniform(0.4, 0.9))
    scene.actor.bend(hip=1.5 + 0.3 * (1 - pull), knee=0.2 + 1.1 * (1 - pull), torso=0.4 - 0.7 * pull)
    scene.actor.bend(arm_pitch=1.3 - 0.8 * pull, elbow=1.5 * pull)


def _alternate(scene: Scene, hertz: float) -> tuple[Array, Array]:
    wave = scene.wave(hertz)
    return wave, -wave


def _climb(scene: Scene) -> None:
    speed = scene.uniform(0.5, 1.2)
    for side, wave in enumerate(_alternate(scene, speed)):
        scene.actor.bend(side, arm_pitch=2.3 + 0.5 * wave, elbow=0.5 - 0.4 * wave)
        scene.actor.bend(side, hip=0.7 - 0.6 * wave, knee=1.1 - 0.8 * wave)
    scene.actor.bend(rise=scene.uniform(0.1, 0.4) * speed * (scene.time - scene.time.min()))


def _cycle(scene: Scene) -> None:
    hertz, phase = scene.uniform(0.7, 2.0), scene.rng.random()
    for side in (0, 1):
        angle = 2 * np.pi * (hertz * scene.time + phase + side / 2)
        scene.actor.bend(side, hip=1.1 + 0.45 * np.cos(angle), knee=1.2 + 0.5 * np.cos(angle + 0.9))
    scene.actor.bend(torso=scene.uniform(0.2, 0.8), arm_pitch=scene.uniform(0.8, 1.3), elbow=0.3)
    scene.actor.bend(rise=0.25, advance=scene.rng.choice([0, 1.5]) * (scene.time - scene.time.mean()))


def _arm_circles(scene: Scene) -> None:
    angle = (
        2 * np.pi * scene.rng.choice([-1, 1]) * (scene.uniform(0.5, 1.6) * scene.time + scene.rng.random())
    )
    apart = scene.rng.choice([0, HALF_TURN])
    scene.actor.bend(0, arm_pitch=angle)
    scene.actor.bend(1, arm_pitch=angle + apart)


def _dance(scene: Scene) -> None:
    beat = scene.uniform(0.8, 1.8)
    for side in (0, 1):
        scene.actor.bend(side, arm_pitch=scene.uniform(0, 1.6) + scene.uniform(0.2, 0.9) * scene.wave(beat))
        scene.actor.bend(side, arm_spread=scene.uniform(0, 1.2) + 0.4 * scene.wave(beat))
        scene.actor.bend(side, elbow=0.7 + 0.6 * scene.wave(beat), hip=0.25 + 0.25 * scene.wave(beat))
        scene.actor.bend(side, knee=0.5 + 0.4 * scene.wave(beat))
    scene.actor.bend(turn=scene.uniform(0, 0.8) * scene.wave(beat / 2), torso=0.12 * scene.wave(beat))


def _high_five(scene: Scene) -> None:
    _meet(scene, near=scene.uniform(0.36, 0.5), hold=scene.uniform(0.2, 0.5))
    up = scene.pulse(scene.uniform(0.2, 0.4), scene.uniform(0.05, 0.3))
    for pose in (scene.actor, scene.partner):
        pose.bend(scene.side, arm_pitch=scene.uniform(2.0, 2.5) * up, elbow=0.5 * up * (1 - up))


def _crawl(scene: Scene) -> None:
    hertz = scene.uniform(0.6, 1.4)
    for side, wave in enumerate(_alternate(scene, hertz)):
        scene.actor.bend(side, arm_pitch=1.45 + 0.4 * wave, hip=-(0.4 * wave), knee=1.45 + 0.1 * wave)
    scene.actor.bend(torso=1.4, advance=0.5 * hertz * (scene.time - scene.time.mean()))


def _push_up(scene: Scene) -> None:
    up = 0.5 + 0.5 * scene.wave(scene.uniform(0.4, 1.0))
    scene.actor.bend(torso=1.5 - 0.2 * up, hip=-(1.5 - 0.2 * up), rise=0.06 + 0.06 * up)
    scene.actor.bend(arm_pitch=1.4 - 0.9 * (1 - up), elbow=1.6 * (1 - up))


def _fall(scene: Scene) -> None:
    down = scene.step(scene.uniform(-0.4, 0), scene.uniform(0.3, 0.7)) ** 1.5
    scene.actor.bend(torso=1.45 * down, knee=1.5 * down, arm_pitch=scene.uniform(0.5, 2.0) * down)
    scene.actor.bend(hip=-(scene.uniform(0, 0.4) * down), advance=scene.uniform(0, 0.3) * down)


ACTIONS: dict[str, Callable[[Scene], None]] = {
    "stand": _stand, "walk": _walk, "run": _run, "jump": _jump, "wave": _wave, "bend": _bend, "clap": _clap,
    "kick": _kick, "punch": _punch, "push": _push, "point": _point, "shake-hands": _shake_hands, "hug": _hug,
    "sit-down": _sit_down, "turn": _turn, "stand-up": _stand_up, "throw": _throw, "swing": _swing,
    "squat": _squat, "jumping-jack": _arms_up_jump, "lift": _lift, "drink": _drink, "row": _row,
    "climb": _climb, "cycle": _cycle, "arm-circles": _arm_circles, "dance": _dance, "high-five": _high_five,
    "crawl": _crawl, "push-up": _push_up, "fall": _fall,
}  # fmt: skip
"""The actions of figures, by name."""
