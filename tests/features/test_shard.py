"""Rows packed in half the bytes come back with eleven significant bits, whatever their size."""

import numpy as np
import pytest

from regraft.features.shard import pack, unpack


def random_rows(count=50, width=200, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@pytest.mark.parametrize("power", [-95, -40, -14, 0, 9, 25])
def test_a_value_changes_by_at_most_2_to_the_minus_11_of_itself(power):
    rows = random_rows() * np.float32(2.0**power)
    half, exponents = pack(rows)
    assert half.dtype == np.float16
    assert (half.nbytes, exponents.nbytes) == (rows.nbytes // 2, len(rows))
    error = np.abs(unpack(half, exponents).astype(np.float64) - rows)
    assert (error <= 2.0**-11 * np.abs(rows.astype(np.float64))).all()
    assert error.max() > 0


def test_unpacking_agrees_with_numpy_for_every_float16_that_occurs():
    bits = np.arange(2**16, dtype=np.uint16)
    normal = ((bits & 0x7C00) != 0x7C00) & (((bits & 0x7C00) != 0) | ((bits & 0x7FFF) == 0))
    values = bits[normal].view(np.float16)
    for exponent in (-112, -13, 0, 15):
        received = unpack(values[None], np.array([exponent], np.int8))
        np.testing.assert_array_equal(received[0], np.ldexp(values.astype(np.float64), exponent))


def test_packing_again_changes_nothing():
    once = unpack(*pack(random_rows()))
    np.testing.assert_array_equal(unpack(*pack(once)), once)


def test_large_and_small_values_of_one_row():
    row = np.array([[3.0, -3.0 * 2**-27, 3.0 * 2**-40, 0.0, -0.0]], np.float32)
    np.testing.assert_array_equal(unpack(*pack(row)), [[3.0, -3.0 * 2**-27, 0, 0, 0]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**30, -(2.0**100)])
def test_rows_that_do_not_fit_keep_every_bit_and_the_others_are_rounded_as_usual(value):
    rows = random_rows(4)
    expected = unpack(*pack(rows))
    rows[2, 5] = value
    packed, _ = pack(rows)
    assert packed.dtype == np.float32
    np.testing.assert_array_equal(packed[2], rows[2])
    np.testing.assert_array_equal(np.delete(packed, 2, 0), np.delete(expected, 2, 0))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 4, 5, 2)])
def test_rows_of_any_shape(shape):
    rows = np.ones(shape, np.float32)
    half, exponents = pack(rows)
    assert half.shape == shape
    np.testing.assert_array_equal(unpack(half, exponents), rows)


def test_a_row_of_zeros_stays_one():
    assert not unpack(*pack(np.zeros((2, 3), np.float32))).any()
