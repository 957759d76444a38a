"""Test a reader with damaged files for minutes: python -m tests.fuzz images --minutes 10 (make fuzz tests all).

A reader may return pixels of the right kind or raise a UserError of one line; anything else ends the run with status 1
and keeps the file that caused it.
"""

import argparse
import faulthandler
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import tifffile
import torch
from PIL import Image

from furnace.datasets.reading import read_image, read_label
from furnace.datasets.splits import scan_list
from furnace.engine.snapshots import Snapshot, load_snapshot, save_snapshot
from furnace.inference.videos import Video
from furnace.utils.errors import UserError
from furnace.utils.weights import read_state_dict

SECONDS_PER_FILE = 10
rng = np.random.default_rng(0)
PHOTO = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
LABEL = rng.integers(0, 4, (24, 32), dtype=np.uint8)
EXIF = Image.Exif()
EXIF[274] = 6


def write_images(folder: Path) -> None:
    """Write one image of each kind."""
    for name, mode, options in (
        *(
            ("rgb.png", "RGB", {}),
            ("alpha.png", "RGBA", {}),
            ("palette.png", "P", {}),
            ("turned.png", "RGB", {"exif": EXIF}),
        ),
        *(("rgb.jpg", "RGB", {"exif": EXIF}), ("ink.jpg", "CMYK", {}), ("scans.jpg", "RGB", {"progressive": True})),
        *(("a.bmp", "RGB", {}), ("a.gif", "P", {}), ("a.webp", "RGB", {}), ("a.avif", "RGB", {}), ("a.ppm", "RGB", {})),
    ):
        Image.fromarray(PHOTO).convert(mode).save(folder / name, **options)
    for kind in ("none", "lzw", "zlib", "zstd", "jpeg", "packbits"):
        tifffile.imwrite(folder / f"{kind}.tif", PHOTO, compression=kind)
    tifffile.imwrite(folder / "16.tif", PHOTO.astype(np.uint16) * 16, tile=(16, 16), bigtiff=True)
    tifffile.imwrite(folder / "float.tif", PHOTO.astype(np.float32) / 255, planarconfig="separate")


def write_labels(folder: Path) -> None:
    """Write one label map of each kind."""
    for name, mode in (
        ("grey.png", "L"),
        ("palette.png", "P"),
        ("grey.tif", "L"),
        ("grey.bmp", "L"),
        ("grey.gif", "P"),
    ):
        Image.fromarray(LABEL).convert(mode).save(folder / name)
    Image.fromarray(LABEL > 1).save(folder / "bits.png")
    Image.fromarray(LABEL.astype(np.uint16)).save(folder / "wide.png")
    tifffile.imwrite(folder / "lzw.tif", LABEL, compression="lzw")


def write_lists(folder: Path) -> None:
    """Write lists in each format, and the files that they name."""
    for name in ("one", "two"):
        for kind in ("image", "label"):
            (folder / "root" / kind).mkdir(parents=True, exist_ok=True)
            (folder / "root" / kind / f"{name}.png").write_bytes(b"")
    (folder / "ids.txt").write_text("one\ntwo\n")
    (folder / "pairs.txt").write_text("image/one.png\tlabel/one.png\n/image/two.png\tlabel/two.png\r\n")
    (folder / "images.txt").write_text("\ufeffimage/one.png\n\nimage/two.png\n")


def write_videos(folder: Path) -> None:
    """Write a few frames in each container."""
    import av

    for name, codec in (("a.mp4", "h264"), ("a.avi", "mjpeg"), ("a.webm", "libvpx-vp9"), ("a.mkv", "mpeg4")):
        with av.open(str(folder / name), "w") as file:
            stream = file.add_stream(codec, rate=10)
            stream.width, stream.height = 32, 24
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            frames = [av.VideoFrame.from_ndarray(np.roll(PHOTO, i, 1), format="rgb24") for i in range(5)]
            for packet in [*(p for frame in frames for p in stream.encode(frame)), *stream.encode()]:
                file.mux(packet)


def write_snapshots(folder: Path) -> None:
    """Write a snapshot, and weights in other formats."""
    weights = {"layer.weight": torch.rand(4, 3), "layer.bias": torch.rand(4)}
    save_snapshot(folder / "epoch-0.pth", Snapshot(weights, [], 0, 1, {"lr": 0.1}))
    torch.save({"state_dict": weights, "best": np.float64(0.5)}, folder / "other.pth")
    torch.save(weights, folder / "legacy.pth", _use_new_zipfile_serialization=False)


def check_pixels(pixels: np.ndarray, dimensions: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != dimensions:
        raise TypeError(f"{pixels.dtype} {pixels.shape}")


def read_video(path: Path) -> None:
    with Video(path) as video:
        for number, (frame, _) in enumerate(video.read()):
            check_pixels(frame, 3)
            if number > 1000:
                break


def read_samples(path: Path) -> None:
    for labeled in (True, False):
        scan_list(path, path.parent / "root", "", labeled)


READERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "images": (write_images, lambda path: check_pixels(read_image(path), 3)),
    "labels": (write_labels, lambda path: check_pixels(read_label(path, 4), 2)),
    "lists": (write_lists, read_samples),
    "videos": (write_videos, read_video),
    "snapshots": (write_snapshots, lambda path: (load_snapshot(path), read_state_dict(path))),
}


def damaged(content: bytes, random_: random.Random) -> bytes:
    """The content with one to eight faults, as disks, networks and programs cause them."""
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 2, 8))):
        at = random_.randrange(len(data) or 1)
        # Headers are short, and most errors begin there.
        at = at if random_.random() < 0.5 else min(at, random_.randrange(200))
        length = random_.choice((1, 2, 4, 64))
        kind = random_.randrange(6)
        if kind == 0:
            data[at : at + length] = random_.randbytes(length)
        elif kind == 1:
            data[at : at + length] = random_.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif data:
            data[at % len(data)] ^= 1 << random_.randrange(8)
    return bytes(data)


def files(kind: str, folder: Path, seed: int) -> Iterator[Path]:
    """Yield each sound file unchanged, then damaged ones without end."""
    READERS[kind][0](folder)
    sound = sorted(path for path in folder.iterdir() if path.is_file())
    yield from sound
    contents, random_ = [(path.suffix, path.read_bytes()) for path in sound], random.Random(seed)
    while True:
        suffix, content = random_.choice(contents)
        path = folder / f"damaged{suffix}"
        path.write_bytes(damaged(content, random_))
        yield path


def main(argv: list[str] | None = None) -> int:
    """Read files until the time is over and return 0; raise any error that is not a UserError of one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=READERS)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    faulthandler.enable()
    folder = Path(mkdtemp(prefix=f"fuzz-{args.kind}-"))
    print(f"files in {folder}", flush=True)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("a hang")))
    end, results = time.monotonic() + 60 * args.minutes, Counter()
    for path in files(args.kind, folder, args.seed):
        begin = time.process_time()
        signal.alarm(SECONDS_PER_FILE)
        try:
            READERS[args.kind][1](path)
            results["read"] += 1
        except UserError as error:
            if "\n" in str(error):
                raise TypeError(f"{error!r} has several lines") from error
            results["refused"] += 1
        finally:
            signal.alarm(0)
        if time.process_time() - begin > SECONDS_PER_FILE:  # even if a reader treated the alarm as damage
            raise TimeoutError(f"{path} takes {time.process_time() - begin:.0f} s")
        if time.monotonic() > end:
            break
    print(f"{args.kind}: {results['read']} read, {results['refused']} refused, nothing else")
    return 0


if __name__ == "__main__":
    sys.exit(main())
