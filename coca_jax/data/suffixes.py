"""What names of images and videos end with: one list for folders, tars, tables and searches."""

# What `images.decode` reads. Of several in a sample of a tar the first kind is taken.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jpe", ".jfif"),
    *(".avif", ".ppm", ".pgm"),
)
# Images that are not read, which nobody should miss without a word.
OTHER_IMAGES = (".heic", ".heif", ".jxl", ".jp2")
# Containers that OpenCV reads.
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".webm", ".mkv", ".mpg", ".mpeg")


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return name.lower().endswith(IMAGE_SUFFIXES)
