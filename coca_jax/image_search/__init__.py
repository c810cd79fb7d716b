"""Search among images by their embeddings, which an index on disk keeps."""

from coca_jax.image_search.image_index import ImageIndex

__all__ = ["ImageIndex"]
