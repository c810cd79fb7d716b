"""Hidden files and folders: what systems and programs leave among data, and nobody put there."""

import re

# In lower case. Windows, macOS, Linux, and the storage boxes of Synology and QNAP.
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
PATTERN = rf"\.(?!\.?\Z)|~\$|(?:{'|'.join(map(re.escape, sorted(SYSTEM_NAMES)))})\Z"
_is_part_hidden = re.compile(PATTERN, re.IGNORECASE).match


def is_hidden(name: str) -> bool:
    """Whether a file or a folder is hidden, or is a system's own.

    Args:
      name: of it; or its path below the folder or tar that was given, of which every part counts.
        Whoever gives a hidden folder itself wants it, so its own path does not belong here.
    """
    return any(map(_is_part_hidden, name.split("/")))
