"""From encoded images and videos to arrays, and their augmentation."""
