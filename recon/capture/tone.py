"""High dynamic range video (HLG and PQ in BT.2020 colours) as sRGB.

The signal becomes light on a display, its highlights are rolled off, its colours brought to sRGB's primaries. Formulas:
ITU-R BT.2100-2 (tables 4 and 5), BT.2390-10 (section 5.4.1), BT.2408 (reference white), BT.2407 (colours).
"""

from __future__ import annotations

from enum import Enum
from functools import cache

import numpy as np
from jaxtyping import Float64, UInt8, UInt16

DISPLAY_PEAK_CD = 1000.0
"""Peak of the display that phones record for, in cd/m2."""
WHITE_CD = 203.0
"""BT.2408's reference white; it becomes sRGB's brightest value, so that the picture is as bright as an ordinary one."""
SYSTEM_GAMMA = 1.2
"""Of HLG on a display of 1000 cd/m2 (BT.2100 note 5f)."""
LUMINANCE = np.array([0.2627, 0.6780, 0.0593])
"""Luminance of BT.2020's primaries."""
SRGB_FROM_BT2020 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
"""Linear light (BT.2407, table 2)."""


class Transfer(Enum):
    """How a video codes light; the values are ISO/IEC 23091-2's."""

    pq = 16
    hlg = 18


def srgb_from_hdr(signal: UInt16[np.ndarray, "h w 3"], transfer: Transfer) -> UInt8[np.ndarray, "h w 3"]:
    """A frame's full-range BT.2020 R'G'B' as 8-bit sRGB."""
    light_cd = np.maximum(_signal_light(transfer)[signal], 0.0)
    if transfer is Transfer.hlg:
        # BT.2100's OOTF: the display shows the scene with more contrast the brighter it is.
        scene = (light_cd @ LUMINANCE)[..., None]
        light_cd = DISPLAY_PEAK_CD * np.maximum(scene, 1e-9) ** (SYSTEM_GAMMA - 1) * light_cd
    brightest = light_cd.max(axis=-1, keepdims=True)
    # One factor for all three channels keeps the hue of what is rolled off.
    light = light_cd * (rolled_off(brightest) / np.maximum(brightest, 1e-6)) / WHITE_CD
    linear = np.clip(light @ SRGB_FROM_BT2020.T, 0, 1)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (coded * 255 + 0.5).astype(np.uint8)


@cache
def _signal_light(transfer: Transfer) -> Float64[np.ndarray, "65536"]:
    """Each 16-bit code's light: cd/m2 of a PQ display, or an HLG scene's linear light (1 is its peak)."""
    code = np.arange(65536) / 65535
    return light_of_pq(code) if transfer is Transfer.pq else scene_of_hlg(code)


def scene_of_hlg(signal: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Linear scene light 0..1 of an HLG signal 0..1 (BT.2100 table 5, inverse OETF)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def light_of_pq(signal: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Display light in cd/m2 of a PQ signal 0..1 (BT.2100 table 4, EOTF)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 107 / 128, 2413 / 128, 2392 / 128
    root = signal ** (1 / m2)
    return 10000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def pq_of_light(light_cd: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """The PQ signal 0..1 of display light in cd/m2 (BT.2100 table 4, inverse EOTF)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 107 / 128, 2413 / 128, 2392 / 128
    power = (np.clip(light_cd, 0, 10000) / 10000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def rolled_off(light_cd: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Light in cd/m2, up to DISPLAY_PEAK_CD, brought below WHITE_CD: unchanged below a knee, then a Hermite spline.

    BT.2390's EETF without black lift.
    """
    source, white = pq_of_light(np.array([DISPLAY_PEAK_CD, WHITE_CD]))
    top = white / source
    knee = 1.5 * top - 0.5
    e = np.clip(pq_of_light(light_cd) / source, 0, 1)
    t = np.clip((e - knee) / (1 - knee), 0, 1)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * top
    return light_of_pq(np.where(e < knee, e, spline) * source)
