import jax
import jax.numpy as jnp
import numpy as np

from coca_jax.models.image_encoder import drop_patches, normalize_pixels, patches


def test_patches_are_cut_in_row_order():
    image = jnp.arange(4 * 4 * 1.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(
        patches(image, 2)[0],
        [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]],
    )


def test_normalize_pixels():
    image = jnp.array([[[[0, 255, 51]]]], jnp.uint8)
    np.testing.assert_allclose(
        normalize_pixels(image, (0.5, 0.5, 0.0), (0.5, 0.25, 1.0))[0, 0, 0], [-1, 2, 0.2]
    )


def test_drop_patches_keeps_a_random_ordered_subset_of_each_image():
    x = jnp.broadcast_to(jnp.arange(10.0)[None, :, None], (50, 10, 1))
    kept = np.asarray(drop_patches(jax.random.key(0), x, 0.4)[0])[..., 0]
    assert kept.shape == (50, 6)
    assert (np.diff(kept, axis=1) > 0).all()
    counts = np.bincount(kept.astype(int).ravel(), minlength=10)
    assert counts.min() > 15 and counts.max() < 45  # 30 expected of each, sd 3.5
    assert len(np.unique(kept, axis=0)) > 25
