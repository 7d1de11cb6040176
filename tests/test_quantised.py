"""Weights kept in 8 bits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file

from zhaiju.modeling.quantised import is_quantised, quantise, read_weights

VALUES = st.floats(-1e4, 1e4, width=32)


@settings(deadline=None)
@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=VALUES))
def test_a_weight_is_off_by_half_a_step_at_most(tmp_path_factory, matrix):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(quantise({"dense.weight": matrix}), path)
    found = read_weights(path)
    assert list(found) == ["dense.weight"]
    step = np.abs(matrix).max(axis=1, keepdims=True) / 127
    assert (np.abs(found["dense.weight"] - matrix) <= step * 0.5001 + 1e-7).all()


def test_what_was_in_8_bits_stays_as_it_is():
    matrix = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
    once = quantise({"a": matrix})
    again = quantise({"a": once["a"] * once["a_scale"]})
    assert (once["a"] == again["a"]).all()


def test_vectors_are_kept_as_they_are(tmp_path):
    path = tmp_path / "model.safetensors"
    held = quantise({"bias": np.array([0.1, -2], np.float32), "weight": np.ones((2, 2), np.float32)})
    assert held["bias"].dtype == np.float32
    assert held["weight"].dtype == np.int8
    save_file(held, path)
    assert is_quantised(path)
    assert read_weights(path)["bias"].tolist() == pytest.approx([0.1, -2])


def test_plain_weights_are_read_as_float32(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.array([[1, 2]], np.float16), "a_scaled": np.array([3], np.float32)}, path)
    assert not is_quantised(path)
    found = read_weights(path)
    assert {name: value.dtype for name, value in found.items()} == dict.fromkeys(("a", "a_scaled"), np.dtype("float32"))
