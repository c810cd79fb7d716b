"""Names of files: which are images or videos, and which are hidden.

One list for folders, tars, tables and searches.
"""

import re

# Formats that `images.decode` reads. If a sample of a tar has more than one, the first is read.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jpe", ".jfif"),
    *(".avif", ".ppm", ".pgm"),
)
# Images that are not read; notes say where some are.
OTHER_IMAGES = (".heic", ".heif", ".jxl", ".jp2")
# Containers that OpenCV reads.
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".webm", ".mkv", ".mpg", ".mpeg")

# Files of operating systems (Windows, macOS, Linux) and of storage devices (Synology, QNAP), which
# are not data; in lower case.
SYSTEM_NAMES = frozenset(
    (
        *("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("$recycle.bin", "system volume information"),
        *("__macosx", "icon\r", "lost+found", "__pycache__"),
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
    )
)
# `.` hides a name on Unix; macOS keeps attributes of `x` in `._x`. Office locks `x` by `~$x`.
# For `re.match`, ignoring case, with one part of a path.
HIDDEN_PATTERN = rf"\.(?!\.?\Z)|~\$|(?:{'|'.join(map(re.escape, sorted(SYSTEM_NAMES)))})\Z"
_is_part_hidden = re.compile(HIDDEN_PATTERN, re.IGNORECASE).match


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_hidden(name: str) -> bool:
    """Whether a file or a folder is hidden, or belongs to an operating system.

    Args:
      name: its name; or its path within the folder or tar that the user gave, of which every part
        counts. The path of that folder itself does not belong here: it is read though it is hidden.
    """
    return any(map(_is_part_hidden, name.split("/")))
