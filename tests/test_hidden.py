"""Space that no camera sees past the surface."""

import numpy as np
import pytest
import torch
from striped_sphere import RADIUS, sphere_scene
from torch.utils._python_dispatch import TorchDispatchMode

from recon.surface import hidden_reference
from recon.surface.baking import Baker, unit_from_region, unit_planes
from recon.surface.hidden import find_hidden
from recon.surface.hidden_cpu import depth_image, find_seen
from recon.surface.hidden_reference import depth_images_reference, find_seen_reference
from recon.surface.pixels import unit_cameras


class CountedOperations(TorchDispatchMode):
    """Counts what torch is asked for."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def sphere(tmp_path):
    """A baker that holds a sphere's SDF, its cameras and planes, and the radius in the unit cube."""
    posed, region = sphere_scene(tmp_path, n_views=16)
    unit_from_world = unit_from_region(region)
    baker = Baker(region, unit_from_world, 48, torch.device("cpu"))
    radius = RADIUS * unit_from_world.scale
    distance = (baker.points - 0.5).norm(dim=1) - radius
    baker.baked.values[:] = distance.reshape(baker.baked.values.shape)
    return baker, unit_cameras(posed, unit_from_world), torch.from_numpy(unit_planes(region, unit_from_world)), radius


def test_depth_image_is_the_sphere_s(sphere):
    baker, cameras, planes, radius = sphere
    depth, _ = depth_image(baker.baked, cameras, 0, planes.numpy())
    centre = np.array(depth.shape) // 2
    nearest = float((cameras.centre[0] - 0.5).norm()) - radius
    assert depth[tuple(centre)] == pytest.approx(nearest, abs=baker.baked.cell)
    assert depth[0, 0] > 1e8


def test_inside_is_hidden_and_its_depth_is_the_way_out(sphere):
    baker, cameras, planes, radius = sphere
    hidden = find_hidden(baker.baked, baker.inside(), cameras, planes)
    depth = radius - np.linalg.norm(hidden.points.numpy() - 0.5, axis=1)
    # the cameras stand above: below the sphere some space outside it is hidden too
    above = hidden.points[:, 2].numpy() > 0.5
    assert depth[above].min() > -2 * baker.baked.cell
    assert np.abs(hidden.depth.numpy() - depth)[above & (depth < 0.5 * radius)].max() < 3 * baker.baked.cell
    inside = np.linalg.norm(baker.points[baker.inside()].numpy() - 0.5, axis=1) < radius - 2 * baker.baked.cell
    assert len(hidden.points) > inside.sum()


def test_the_plain_twin_sees_the_same(sphere, monkeypatch):
    baker, cameras, planes, _ = sphere
    monkeypatch.setattr(hidden_reference, "N_VIEWS_TOGETHER", 7)
    found, wanted = (see(baker.baked, cameras, planes) for see in (find_seen, find_seen_reference))
    # a point on the border between two pixels may be rounded into either
    assert (found == wanted).float().mean() > 0.999
    assert 0.05 < wanted.float().mean() < 0.95


def test_views_traced_together_have_the_depth_of_each_alone(sphere, monkeypatch):
    baker, cameras, planes, _ = sphere
    cameras.size_px[1] = torch.tensor([72, 40])  # photos need not be of one size
    views = range(6)
    alone = [image for v in views for image in depth_images_reference(baker.baked, cameras, [v], planes)]
    monkeypatch.setattr(hidden_reference, "N_CLIPPED", 1000)
    together = depth_images_reference(baker.baked, cameras, views, planes)
    for (depth, scale), (wanted, its_scale) in zip(together, alone, strict=True):
        assert scale == its_scale and depth.shape == wanted.shape
        # the product with the planes may be summed otherwise for another number of rays
        torch.testing.assert_close(depth, wanted, rtol=0, atol=1e-6)


def test_the_number_of_launches_does_not_grow_with_the_views(sphere):
    """A trace of each view by itself was 365,000 kernels a call."""
    baker, cameras, planes, _ = sphere
    counts = []
    for n in (2, 8):
        with CountedOperations() as counted:
            depth_images_reference(baker.baked, cameras, range(n), planes)
        counts.append(counted.n)
    assert counts[1] < 1.5 * counts[0]


def test_a_cave_behind_a_pinhole_is_hidden(sphere):
    baker, cameras, planes, radius = sphere
    cell, values = baker.baked.cell, baker.baked.values.numpy()
    offset = baker.points.numpy() - 0.5
    from_centre = np.linalg.norm(offset, axis=1)
    cave = from_centre < 0.5 * radius
    pinhole = (np.linalg.norm(offset[:, 1:], axis=1) < 0.6 * cell) & (offset[:, 0] > 0)
    values.reshape(-1)[cave | pinhole] = cell
    hidden = find_hidden(baker.baked, baker.inside(), cameras, planes)
    in_cave = np.linalg.norm(hidden.points.numpy() - 0.5, axis=1) < 0.5 * radius - cell
    assert in_cave.sum() > 0.98 * (from_centre < 0.5 * radius - cell).sum()
