"""Which files of a source are its photos, its masks or its videos."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from recon.capture.decode import PHOTO_SUFFIXES, RAW_SUFFIXES
from recon.capture.given import photo_folder
from recon.data import LeftOut
from recon.errors import UserError

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".mts", ".3gp"})


MIN_PHOTOS_ALONE = 12
"""With fewer photos than this, the videos beside them are used too."""


@dataclass(frozen=True)
class Source:
    """The files to read."""

    root: Path
    photos: tuple[Path, ...]
    videos: tuple[Path, ...]
    masks: dict[str, Path]
    """Mask files by lower-case name without their last extension."""
    left_out: tuple[LeftOut, ...]
    note: str
    """What the user should know about the choice; empty where it was plain."""

    def mask_of(self, photo: Path) -> Path | None:
        """The mask `masks/NAME.*` or `masks/NAME.jpg.*` of a photo."""
        return self.masks.get(photo.name.lower()) or self.masks.get(photo.stem.lower())


def find_files(source: Path) -> Source:
    """Look at a folder of photos and videos (its own files or those in `images/`), or at a video file.

    An export's photos are found where `photo_folder` says. Videos count where there are fewer than MIN_PHOTOS_ALONE
    photos. No other subfolder is looked into except `masks/`. Raises UserError where nothing usable is there.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist; give a folder of photos or a video file.")
    if source.is_file():
        if source.suffix.lower() not in VIDEO_SUFFIXES:
            raise UserError(f"{source} is not a video; give the folder that holds all photos of the object.")
        return Source(source.parent, (), (source,), {}, (), "")
    here = _files(source)
    inside = _files(photo_folder(source))
    use_inside = any(_is_photo(f) for f in inside)
    files = inside if use_inside else here
    photos, left_out = _without_copies([f for f in files if _is_photo(f)], source)
    photos, videos, doubles = _without_doubles(photos, [f for f in here + inside if _is_video(f)], source)
    left_out += doubles
    if not photos and not videos:
        found = ", ".join(f.name for f in here[:3])
        raise UserError(
            f"{source} has no photo or video in it{f' (only {found}, ...)' if found else ''}; "
            "give a folder of JPEG, PNG, HEIC, WebP, BMP, TIFF or DNG photos, or a video."
        )
    if len(photos) >= MIN_PHOTOS_ALONE:
        left_out += [LeftOut(_relative(f, source), "a video; the photos were used instead") for f in videos]
        videos = []
    left_out += [LeftOut(_relative(f, source), "not a photo or video") for f in files if not _is_media(f)]
    n_ignored = sum(_is_photo(f) for f in here) if use_inside else 0
    note = f"Used the photos in images/; {n_ignored} photos beside that folder were not looked at." if n_ignored else ""
    if photos and videos:
        note = f"{note} The {len(photos)} photos are few, so frames of the video were used beside them.".strip()
    masks = {f.stem.lower(): f for f in _files(source / "masks") if _is_photo(f)} if photos else {}
    return Source(source, tuple(photos), tuple(videos), masks, tuple(left_out), note)


def _without_doubles(
    photos: list[Path], videos: list[Path], root: Path
) -> tuple[list[Path], list[Path], list[LeftOut]]:
    """Leave out what a phone stores beside a photo: its raw file, and the moment of film of a live photo.

    The phone's own JPEG or HEIC is kept: the same pixels, less noisy, with the lens's distortion corrected.
    """
    developed = {_place(f): f for f in photos if not _is_raw(f)}
    # A live photo's film is a MOV; one photo beside one film is rather the film's poster.
    moving = {_place(f): f for f in photos} if len(photos) > 1 else {}
    doubles = [(f, developed[_place(f)], "the raw file of") for f in photos if _is_raw(f) and _place(f) in developed]
    movs = [f for f in videos if f.suffix.lower() == ".mov"]
    doubles += [(f, moving[_place(f)], "the moving part of the live photo") for f in movs if _place(f) in moving]
    gone = {f for f, _, _ in doubles}
    left_out = [LeftOut(_relative(f, root), f"{what} {kept.name}, which was used") for f, kept, what in doubles]
    return [f for f in photos if f not in gone], [f for f in videos if f not in gone], left_out


def natural_key(name: str) -> tuple[tuple[int, str | int], ...]:
    """Sorts IMG_2 before IMG_10."""
    parts = re.split(r"(\d+)", name.lower())
    return tuple((1, int(p)) if p.isascii() and p.isdigit() else (0, p) for p in parts)


def unique_names(photos: tuple[Path, ...]) -> list[str]:
    """A safe, unique file name without extension for each photo, close to its own (any script is kept)."""
    taken: set[str] = set()
    names = []
    for photo in photos:
        stem = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", photo.stem).strip(". ") or "photo"
        candidates = [stem, f"{stem}_{photo.suffix[1:].lower()}"] + [f"{stem}_{i}" for i in range(2, len(photos) + 2)]
        name = next(c for c in candidates if c.lower() not in taken)  # lower: some file systems ignore case
        taken.add(name.lower())
        names.append(name)
    return names


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    visible = [f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".") and not _is_litter(f)]
    return sorted(visible, key=lambda f: natural_key(f.name))


def _is_litter(file: Path) -> bool:
    return file.name.lower() in ("thumbs.db", "desktop.ini")


def _is_photo(file: Path) -> bool:
    return file.suffix.lower() in PHOTO_SUFFIXES


def _is_raw(file: Path) -> bool:
    return file.suffix.lower() in RAW_SUFFIXES


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in VIDEO_SUFFIXES


def _is_media(file: Path) -> bool:
    return _is_photo(file) or _is_video(file)


def _place(file: Path) -> tuple[Path, str]:
    """A file without its extension, as phones pair files by name (whatever the case)."""
    return file.parent, file.stem.lower()


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _without_copies(photos: list[Path], root: Path) -> tuple[list[Path], list[LeftOut]]:
    """Leave out files whose bytes equal an earlier one's."""
    first: dict[str, Path] = {}
    kept, left_out = [], []
    for photo in photos:
        try:
            with photo.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
        except OSError:  # decoding meets the same error and reports it with the file's name
            digest = str(photo)
        if digest in first:
            left_out.append(LeftOut(_relative(photo, root), f"an exact copy of {first[digest].name}"))
        else:
            first[digest] = photo
            kept.append(photo)
    return kept, left_out
