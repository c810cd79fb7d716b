import jax.numpy as jnp
import numpy as np

from coca_jax.models.attention import cached_mask, causal_mask, causal_mask_with_cls


def test_causal_mask():
    np.testing.assert_array_equal(causal_mask(3)[0, 0], [[1, 0, 0], [1, 1, 0], [1, 1, 1]])


def test_cls_sees_itself_and_the_real_tokens_and_nobody_sees_it():
    valid = jnp.array([[True, True, False], [True, True, True]])
    mask = causal_mask_with_cls(valid)[:, 0]
    np.testing.assert_array_equal(mask[0], [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]])
    np.testing.assert_array_equal(mask[1], [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])


def test_the_shifted_mask_is_one_place_beside():
    valid = jnp.array([[True, True, False], [True, True, True]])
    mask = causal_mask_with_cls(valid, shifted=True)[:, 0]
    np.testing.assert_array_equal(mask[0], [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]])
    np.testing.assert_array_equal(mask[1], [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])


def test_cached_mask_sees_what_is_written_up_to_each_query():
    np.testing.assert_array_equal(
        cached_mask(jnp.int32(1), 2, 4)[0, 0], [[1, 1, 0, 0], [1, 1, 1, 0]]
    )
