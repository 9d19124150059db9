"""Rigid and similarity transforms, each named `b_from_a` where it is used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class Rigid:
    """`b_from_a`: x_b = rotation @ x_a + translation."""

    rotation: Float64[np.ndarray, "3 3"]
    translation: Float64[np.ndarray, "3"]

    @staticmethod
    def identity() -> Rigid:
        return Rigid(np.eye(3), np.zeros(3))

    @staticmethod
    def from_matrix(matrix: Float64[np.ndarray, "4 4"]) -> Rigid:
        """Take the upper 3x4 block of a homogeneous matrix."""
        matrix = np.asarray(matrix, float)
        return Rigid(matrix[:3, :3].copy(), matrix[:3, 3].copy())

    def matrix(self) -> Float64[np.ndarray, "4 4"]:
        """The homogeneous 4x4 matrix."""
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = self.rotation, self.translation
        return out

    def inverse(self) -> Rigid:
        return Rigid(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: Rigid) -> Rigid:
        """`c_from_b @ b_from_a` is `c_from_a`."""
        return Rigid(self.rotation @ other.rotation, self.rotation @ other.translation + self.translation)

    def apply(self, points: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
        return points @ self.rotation.T + self.translation

    def check(self) -> None:
        """Raise ValueError unless the rotation is orthonormal, right-handed and everything is finite."""
        if not (np.isfinite(self.rotation).all() and np.isfinite(self.translation).all()):
            raise ValueError("a rigid transform is not finite")
        # 1e-6: float64 products of a few hundred rotations stay far below, a transposed or scaled one far above.
        if np.abs(self.rotation @ self.rotation.T - np.eye(3)).max() > 1e-6 or np.linalg.det(self.rotation) < 0:
            raise ValueError("a rigid transform's rotation is not orthonormal and right-handed")


@dataclass(frozen=True)
class Similarity:
    """`b_from_a`: x_b = scale * rotation @ x_a + translation."""

    scale: float
    rotation: Float64[np.ndarray, "3 3"]
    translation: Float64[np.ndarray, "3"]

    @staticmethod
    def identity() -> Similarity:
        return Similarity(1.0, np.eye(3), np.zeros(3))

    def matrix(self) -> Float64[np.ndarray, "4 4"]:
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = self.scale * self.rotation, self.translation
        return out

    def inverse(self) -> Similarity:
        return Similarity(1 / self.scale, self.rotation.T, -self.rotation.T @ self.translation / self.scale)

    def __matmul__(self, other: Similarity) -> Similarity:
        return Similarity(
            self.scale * other.scale, self.rotation @ other.rotation, self.apply(other.translation[None])[0]
        )

    def apply(self, points: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
        return self.scale * (points @ self.rotation.T) + self.translation

    def apply_to_camera(self, cam_from_a: Rigid) -> Rigid:
        """The camera `cam_from_b` that sees the moved world as `cam_from_a` saw the old one."""
        rotation = cam_from_a.rotation @ self.rotation.T
        centre_b = self.apply((-cam_from_a.rotation.T @ cam_from_a.translation)[None])[0]
        return Rigid(rotation, -rotation @ centre_b)


def umeyama(source: Float64[np.ndarray, "n 3"], target: Float64[np.ndarray, "n 3"]) -> Similarity:
    """Least-squares `target_from_source` (Umeyama 1991, eqs. 40-43)."""
    mean_s, mean_t = source.mean(0), target.mean(0)
    u, d, vt = np.linalg.svd((target - mean_t).T @ (source - mean_s) / len(source))
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ sign @ vt
    scale = float(np.trace(np.diag(d) @ sign) / ((source - mean_s) ** 2).sum(1).mean())
    return Similarity(scale, rotation, mean_t - scale * rotation @ mean_s)


def rotation_between(a: Float64[np.ndarray, "3"], b: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "3 3"]:
    """The smallest rotation that turns direction `a` into direction `b` (Rodrigues' formula)."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    axis, cosine = np.cross(a, b), float(a @ b)
    if cosine < -1 + 1e-12:  # opposite: any axis at right angles turns by 180 degrees
        side = np.eye(3)[np.argmin(np.abs(a))]
        axis = np.cross(a, side) / np.linalg.norm(np.cross(a, side))
        return 2 * np.outer(axis, axis) - np.eye(3)
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + k + k @ k / (1 + cosine)
