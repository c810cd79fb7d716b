"""WebDataset tars with everything that web data gets wrong, made anew for each test."""

import io
import json
import tarfile

import cv2
import numpy as np

GOOD, ENTIRE = 24, 20


def encoded(extension, seed, size=24):
    image = np.random.default_rng(seed).integers(0, 256, (size // 8, size // 8, 3), np.uint8)
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(extension, image)[1].tobytes()


def write_tar(path, samples):
    """Samples are dictionaries from extension to bytes."""
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(samples):
            for extension, data in sample.items():
                member = tarfile.TarInfo(f"{number:05}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def good(number):
    fields = json.dumps({"width": 24, "score": 0.5}).encode()
    return {"jpg": encoded(".jpg", number), "txt": f"picture {number}".encode(), "json": fields}


def broken():
    """Broken samples by their fault: (sample, the kind that it is counted as)."""
    jpeg, caption = encoded(".jpg", 99), b"a caption"
    return {
        "truncated": ({"jpg": jpeg[: len(jpeg) // 2], "txt": caption}, "bad_image"),
        "web page": ({"jpg": b"<html><body>404</body></html>", "txt": caption}, "bad_image"),
        "empty": ({"jpg": b"", "txt": caption}, "bad_image"),
        "no caption": ({"jpg": jpeg}, "bad_text"),
        "blank caption": ({"jpg": jpeg, "txt": b" \n"}, "bad_text"),
        "not UTF-8": ({"jpg": jpeg, "txt": b"caf\xe9 \xff"}, "bad_text"),
        "endless caption": ({"jpg": jpeg, "txt": b"word " * 10_000}, "filtered_length"),
        "no JSON": ({"jpg": jpeg, "txt": caption, "json": b'{"a": '}, "bad_record"),
    }


def odd():
    """Samples that look broken but can be used."""
    return {
        "wrong extension": {"jpg": encoded(".png", 98), "txt": b"a PNG named jpg"},
        "byte order mark": {"png": encoded(".png", 97), "txt": b"\xef\xbb\xbfmarked"},
    }


def write(folder):
    """Writes good.tar, broken.tar (with the odd samples, too), truncated.tar and gone.tar."""
    write_tar(folder / "good.tar", [good(number) for number in range(GOOD)])
    faulty = [sample for sample, _ in broken().values()]
    write_tar(folder / "broken.tar", [*faulty, *odd().values()])
    write_tar(folder / "truncated.tar", [good(100 + number) for number in range(ENTIRE + 1)])
    with tarfile.open(folder / "truncated.tar") as tar:
        last = tar.getmember(f"{ENTIRE:05}.jpg")
    with open(folder / "truncated.tar", "r+b") as file:
        file.truncate(last.offset_data + last.size // 2)
    write_tar(folder / "gone.tar", [good(200 + number) for number in range(4)])
    return str(folder / "{good,broken,truncated,gone}.tar")
