"""What photos say about their lens, weighed against what is known of lenses beforehand.

Where the object alone carries features, or a lens took few photos, bundle adjustment finds focal length, principal
point and distortion only roughly, and trades them for a turn of all cameras. A Gaussian prior keeps them sensible and
has no say where the photos are clear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from pose.colmap_io import silenced


@dataclass(frozen=True)
class IntrinsicsConfig:
    """What is known of a lens before its photos are looked at: standard deviations."""

    principal_point: float = 0.008
    """Of the principal point from the photo's middle, as a share of the long side; phones are a few pixels off."""
    exif_focal: float = 0.03
    """Of the focal length from EXIF's, as a share; EXIF rounds to a millimetre."""
    unknown_focal: float = 0.3
    """The same where EXIF says nothing."""
    given_focal: float = 0.01
    """Of a given focal length, as a share; a calibration is good to a thousandth, a phone's own word to a hundredth."""
    given_distortion: float = 0.02
    """Of given distortion coefficients."""
    distortion: float = 0.1
    """Of the radial coefficients k1 and k2 from 0; phones correct their lenses, action cameras reach 0.3."""
    measurement_px: float = 1.0
    """Of a feature's place. Larger than the residuals: errors along a track share their cause and do not average."""


def steady_lenses(reconstruction: Any, start: dict[int, Any], adjust: Any, cfg: IntrinsicsConfig) -> None:
    """Adjust everything, weigh each lens against its prior, and adjust the rest to that, in place.

    `start` are the cameras before any photo was placed, by id; `adjust` pycolmap's BundleAdjustmentOptions. The
    adjusted lens is a measurement of covariance C, the prior one of P, and their product's mean is
    x - C (C + P)^-1 (x - x_prior).
    """
    pycolmap = silenced()
    problem = pycolmap.BundleAdjustmentConfig()
    for image in reconstruction.images.values():
        if image.has_pose:
            problem.add_image(image.image_id)
    problem.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    adjust.refine_principal_point = adjust.refine_focal_length = adjust.refine_extra_params = True
    adjuster = pycolmap.create_default_ceres_bundle_adjuster(adjust, problem, reconstruction)
    adjuster.solve()
    options = pycolmap.BACovarianceOptions()
    options.params = pycolmap.BACovarianceOptionsParams.ALL  # a smaller choice leaves the lens out
    covariance = pycolmap.estimate_ba_covariance(options, reconstruction, adjuster)
    used = {image.camera_id for image in reconstruction.images.values() if image.has_pose}
    for camera_id in sorted(used):
        camera = reconstruction.cameras[camera_id]
        mean, sigma = _prior(start[camera_id], cfg)
        spread = covariance.get_other_params_cov(camera.params) if covariance is not None else None
        if spread is None:  # the photos leave the lens open: the prior decides alone
            camera.params = mean
            continue
        c = np.asarray(spread) * cfg.measurement_px**2
        x = np.array(camera.params, float)
        camera.params = x - c @ np.linalg.solve(c + np.diag(sigma**2), x - mean)
    adjust.refine_principal_point = adjust.refine_focal_length = adjust.refine_extra_params = False
    pycolmap.create_default_ceres_bundle_adjuster(adjust, problem, reconstruction).solve()


def _prior(camera: Any, cfg: IntrinsicsConfig) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Mean and standard deviation of a camera's parameters.

    RADIAL: f, cx, cy, k1, k2, from EXIF; OPENCV: fx, fy, cx, cy, k1, k2, p1, p2, as the user gave them.
    """
    focal = camera.params[0]
    off = cfg.principal_point * max(camera.width, camera.height)
    if camera.model_name == "OPENCV":
        given = np.array(camera.params, float)
        spread = [cfg.given_focal * given[0], cfg.given_focal * given[1], off, off]
        return given, np.array([*spread, *[cfg.given_distortion] * 4])
    share = cfg.exif_focal if camera.has_prior_focal_length else cfg.unknown_focal
    mean = np.array([focal, camera.width / 2, camera.height / 2, 0.0, 0.0])
    return mean, np.array([share * focal, off, off, cfg.distortion, cfg.distortion])
