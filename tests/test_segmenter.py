"""Segmentation networks as one more witness of what the object is: asked, weighed, and overruled."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from ball_scene import ball_capture, iou
from PIL import Image
from tiny_networks import CENTRED, IMAGENET, write_classifier, write_red, write_salient, write_sam

from recon.data import ObjectRegion, PosedCapture
from recon.errors import UserError
from recon.isolate.carve import signed_distance_px
from recon.isolate.consult import (
    LEAST_CONTRAST,
    contrast,
    network_named,
    prompt_for,
    prompted_masks,
    salient_shares,
    with_shares,
)
from recon.isolate.frames import load_frames
from recon.isolate.isolate import IsolateConfig, isolate_object
from recon.isolate.segmenter import Prompt, PromptedNetwork, SalientNetwork, load_network, model_files
from recon.stage import Job, Workspace, stage

QUICK = IsolateConfig(work_side_px=200, refine_side_px=200, n_plane_photos=6, n_voxels=48)
WRONG = (1, 6, 9, 14)
"""Photos with a white corner, in which the tiny networks mark everything but the ball."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[PosedCapture, list[np.ndarray]]:
    posed, truth = ball_capture(tmp_path_factory.mktemp("posed"))
    for n in WRONG:
        path = posed.folder / "images" / f"v{n:02d}.jpg"
        image = np.array(Image.open(path))
        image[:10, :10] = 255
        Image.fromarray(image).save(path, quality=95)
    return posed, truth


def isolate(posed: PosedCapture, model: str, folder: Path) -> tuple[ObjectRegion, Job]:
    job = Job("isolate_object", folder)
    region = isolate_object(posed, replace(QUICK, model=model), job)
    region.save(folder)
    return ObjectRegion.load(folder), job


def scores(posed: PosedCapture, region: ObjectRegion, truth: list[np.ndarray]) -> list[float]:
    return [iou(region.mask(v.name) > 127, t) for v, t in zip(posed.views, truth, strict=True)]


@pytest.mark.parametrize(("name", "colours"), [("u2net.onnx", IMAGENET), ("isnet-general-use.onnx", CENTRED)])
def test_a_network_gets_the_photo_as_it_was_trained(tmp_path: Path, name: str, colours: tuple) -> None:
    network = load_network(str(write_red(tmp_path / name, colours)))
    assert isinstance(network, SalientNetwork)
    ramp = np.linspace(0.1, 0.9, 96, dtype=np.float32)[None].repeat(60, 0)
    rgb = np.dstack([ramp, 1 - ramp, 0 * ramp])
    assert np.abs(network.share(rgb) - ramp).max() < 0.01


def test_log_odds_become_shares(tmp_path: Path, scene: tuple[PosedCapture, list[np.ndarray]]) -> None:
    photo = load_frames(scene[0], 200)[4]
    shares = []
    for name, as_odds in (("u2netp.onnx", False), ("BiRefNet-general-epoch_244.onnx", True)):
        network = load_network(str(write_salient(tmp_path / name, as_odds=as_odds)))
        assert isinstance(network, SalientNetwork)
        shares.append(network.share(photo.rgb))
    assert np.abs(shares[0] - shares[1]).max() < 1e-5
    assert iou(shares[0] > 0.5, scene[1][4]) > 0.93  # JPEG blurs colours at the edge


def test_sam_keeps_to_the_box_and_gives_its_best_mask(tmp_path: Path) -> None:
    network = load_network(write_sam(tmp_path))
    assert isinstance(network, PromptedNetwork)
    yellow = np.broadcast_to(np.array([0.9, 0.75, 0.15], np.float32), (150, 200, 3)).copy()
    box = Prompt(np.array([[0.25, 0.5], [0.75, 0.875]]), np.array([2, 3]))
    expected = np.zeros((150, 200), bool)
    expected[75:131, 50:150] = True
    found = network.mask(yellow, box)
    assert np.abs(signed_distance_px(expected)[found != expected]).max(initial=0) < 1.6  # its masks have 3 px cells
    assert network.mask(1 - yellow, box).sum() == 0


def test_prompts_show_the_object_and_its_openings() -> None:
    radius = np.hypot(*np.mgrid[-60:60, -80:80])
    ring = (radius < 40) & (radius > 15)
    prompt = prompt_for(ring, ring)
    assert prompt is not None
    pixels = prompt.points * (160, 120)
    assert np.array_equal(prompt.labels[:2], [2, 3])
    assert np.abs(pixels[:2] - [[41, 21], [120, 100]]).max() <= 1
    depth = signed_distance_px(ring)
    on = [depth[int(y), int(x)] for (x, y), label in zip(pixels, prompt.labels, strict=True) if label == 1]
    off = [depth[int(y), int(x)] for (x, y), label in zip(pixels, prompt.labels, strict=True) if label == 0]
    assert len(on) == 3 and min(on) > 8
    assert max(off) < -3 and min(off) < -10  # the opening's middle among them
    assert prompt_for(ring, np.zeros_like(ring)) is None


def test_sams_masks_replace_coarse_ones_where_the_solid_agrees(
    tmp_path: Path, scene: tuple[PosedCapture, list[np.ndarray]]
) -> None:
    posed, truth = scene
    frames = load_frames(posed, 200)
    coarse = [cv2.erode(t.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0 for t in truth]
    job = Job("isolate_object", tmp_path)
    network = network_named(write_sam(tmp_path), job)
    assert isinstance(network, PromptedNetwork)
    found = prompted_masks(network, frames, coarse, truth, job)
    for n, (mask, before, true) in enumerate(zip(found, coarse, truth, strict=True)):
        if n in WRONG:
            assert np.array_equal(mask, before)
        else:
            assert iou(mask, true) > 0.9 > 0.85 > iou(before, true)
    assert job.notes["model_overruled"] == len(WRONG)
    assert not job.warnings


def test_shares_are_a_minor_witness(tmp_path: Path, scene: tuple[PosedCapture, list[np.ndarray]]) -> None:
    posed, truth = scene
    frames = load_frames(posed, 200)
    job = Job("isolate_object", tmp_path)
    network = network_named(str(write_salient(tmp_path / "u2net.onnx")), job)
    assert isinstance(network, SalientNetwork)
    shares = salient_shares(network, frames, frames, job)
    undecided = with_shares([np.zeros((150, 200), np.float32)] * 16, shares)
    assert np.median(undecided[4][truth[4]]) > 0.15 and np.median(undecided[4][~truth[4]]) < -0.15
    assert np.median(undecided[WRONG[0]][truth[WRONG[0]]]) < -0.15
    agreement = np.array([contrast(s, t, t) for s, t in zip(shares, truth, strict=True)])
    assert np.array_equal(np.flatnonzero(agreement < LEAST_CONTRAST), WRONG)
    clear = with_shares([np.where(t, 1, -1).astype(np.float32) for t in truth], shares)
    assert clear[WRONG[0]][truth[WRONG[0]]].min() > 0 > clear[WRONG[0]][~truth[WRONG[0]]].max()


def test_wrong_masks_are_overruled_and_the_files_noted(
    tmp_path: Path, scene: tuple[PosedCapture, list[np.ndarray]]
) -> None:
    posed, truth = scene
    region, job = isolate(posed, write_sam(tmp_path), tmp_path)
    found = scores(posed, region, truth)
    assert np.mean(found) > 0.97 and min(found) > 0.95
    assert job.notes["model_overruled"] == len(WRONG)
    assert job.notes["model"] == {
        f"sam2_tiny.{part}.onnx": hashlib.sha256((tmp_path / f"sam2_tiny.{part}.onnx").read_bytes()).hexdigest()[:12]
        for part in ("encoder", "decoder")
    }


def test_a_network_that_is_wrong_in_most_photos_does_no_harm_and_is_told_of(
    tmp_path: Path, scene: tuple[PosedCapture, list[np.ndarray]]
) -> None:
    posed, truth = scene
    model = write_salient(tmp_path / "u2net.onnx", flip=True)  # right only where the others are wrong
    region, job = isolate(posed, str(model), tmp_path)
    found = scores(posed, region, truth)
    assert np.mean(found) > 0.97 and min(found) > 0.95
    assert job.notes["model_overruled"] == 16 - len(WRONG)
    assert "In 12 of 16 photos the network of isolate.model marks something else" in job.warnings[0]


def test_a_network_is_not_asked_where_masks_were_given(
    tmp_path: Path, scene: tuple[PosedCapture, list[np.ndarray]]
) -> None:
    posed, truth = scene
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").symlink_to(posed.folder / "images")
    for view, mask in zip(posed.views, truth, strict=True):
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "masks" / f"{view.name}.png")
    (tmp_path / "region").mkdir()
    _, job = isolate(replace(posed, folder=tmp_path), "lost.onnx", tmp_path / "region")
    assert job.warnings == ["isolate.model=lost.onnx was not asked, because the photos came with masks."]


def test_a_model_is_named_by_file_folder_or_prefix(tmp_path: Path) -> None:
    prefix = write_sam(tmp_path)
    pair = (Path(f"{prefix}.encoder.onnx"), Path(f"{prefix}.decoder.onnx"))
    for name in (prefix, str(tmp_path), *(str(p) for p in pair)):
        assert model_files(name) == pair
    single = write_salient(tmp_path / "u2net.onnx")
    assert model_files(str(single)) == (single,)


def test_unusable_models_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(model: Path, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            load_network(str(model))

    refused(tmp_path / "lost.onnx", r"lost\.onnx: there is no such file; isolate\.model names a salient-object network")
    refused(tmp_path, r"is a folder with 0 files \*\.encoder\.onnx; name one of them")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    refused(tmp_path / "broken.onnx", r"broken\.onnx cannot be read as an ONNX file; fetch or export it again")
    prefix = Path(write_sam(tmp_path))
    decoder = prefix.with_name("sam2_tiny.decoder.onnx")
    decoder.rename(tmp_path / "single.onnx")
    refused(prefix, r"sam2_tiny\.decoder\.onnx is missing beside sam2_tiny\.encoder\.onnx; SAM 2 needs both")
    refused(tmp_path / "single.onnx", "does not take one colour picture of a fixed size")
    write_salient(decoder)
    refused(prefix, r"sam2_tiny\.decoder\.onnx is not the part of SAM 2 that its name says")
    network = load_network(str(write_classifier(tmp_path / "resnet.onnx")))
    assert isinstance(network, SalientNetwork)
    with pytest.raises(UserError, match=r"resnet\.onnx answers with no map of what stands out"):
        network.share(np.zeros((60, 80, 3), np.float32))

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(tmp_path / "resnet.onnx", r"resnet\.onnx needs one more package: pip install 'onnxruntime'")


@dataclass(frozen=True)
class Answer:
    """A noun without contents."""

    def save(self, folder: Path) -> None: ...

    @staticmethod
    def load(folder: Path) -> Answer:
        return Answer()

    def check(self) -> None: ...


@stage(result=Answer, version=1)
def answer(cfg: IsolateConfig, job: Job) -> Answer:
    return Answer()


def test_another_file_of_the_same_name_makes_the_stage_anew(tmp_path: Path) -> None:
    model = write_salient(tmp_path / "u2net.onnx")

    def reused() -> bool:
        workspace = Workspace(tmp_path / "work")
        workspace.run(answer, cfg=IsolateConfig(model=str(model)))
        return bool(workspace.records["answer"]["reused"])

    assert [reused(), reused()] == [False, True]
    write_salient(model, flip=True)
    assert [reused(), reused()] == [False, True]
    Path(f"{model}.data").write_bytes(b"weights beside the graph")
    assert not reused()
