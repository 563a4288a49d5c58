"""The reference held to facts that do not come from itself: golden slope values, and identities a
correct decayed linear attention must satisfy."""

import math

import numpy as np
import pytest

import tnl_reference as ref


def log2_inverse(heads):
    return [-math.log2(s) for s in ref.base_slopes(heads)]


@pytest.mark.parametrize(
    "heads, golden",
    [
        (1, [8.0]),
        (8, [1.0 * i for i in range(1, 9)]),
        (16, [0.5 * i for i in range(1, 17)]),
        (20, [0.5 * i for i in range(1, 17)] + [0.25, 0.75, 1.25, 1.75]),
        (32, [0.25 * i for i in range(1, 33)]),
        (
            40,
            [0.25 * i for i in range(1, 33)]
            + [0.125, 0.375, 0.625, 0.875, 1.125, 1.375, 1.625, 1.875],
        ),
        (64, [0.125 * i for i in range(1, 65)]),
        (3, [4.0, 8.0, 2.0]),
        (6, [2.0, 4.0, 6.0, 8.0, 1.0, 3.0]),
    ],
)
def test_golden_slopes(heads, golden):
    assert log2_inverse(heads) == pytest.approx(golden, abs=1e-12)


def test_golden_layer_factors():
    got = [ref.layer_factor(i, 16) for i in range(16)]
    assert got[0] == pytest.approx(1.00001, abs=1e-12)
    assert got[1] == pytest.approx(0.933343, abs=5e-7)
    assert got[14] == pytest.approx(0.0666767, abs=5e-8)
    assert got[15] == pytest.approx(0.00001, abs=1e-12)
    assert ref.layer_factor(0, 1) == pytest.approx(1.00001, abs=1e-12)


@pytest.mark.parametrize("heads, fastest", [(8, 0.6065), (16, 0.4931), (32, 0.4313)])
def test_golden_fastest_decay(heads, fastest):
    assert math.exp(-ref.layer_slopes(heads, 0, 16)[0]) == pytest.approx(fastest, abs=5e-5)


def test_golden_slowest_decays():
    assert math.log(2) / ref.layer_slopes(16, 0, 16)[-1] == pytest.approx(177, abs=1)
    assert math.exp(-ref.layer_slopes(32, 15, 16).min()) == pytest.approx(0.99999996, abs=5e-9)


def test_slopes_are_float32_products():
    s = ref.layer_slopes(20, 3, 32)
    assert np.array_equal(s, s.astype(np.float32).astype(np.float64))


def random_qkv(n, heads=3, k=4, v=5):
    rng = np.random.default_rng(7)
    return (rng.standard_normal((n, heads, d)) for d in (k, k, v))


def test_quadratic_form_is_the_recurrence():
    q, k, v = random_qkv(50)
    slopes = np.array([0.5, 0.01, 1e-6])
    state = np.zeros((3, 4, 5))
    for t, got in enumerate(ref.attention(q, k, v, slopes)):
        state = np.exp(-slopes)[:, None, None] * state + np.einsum("hk,hv->hkv", k[t], v[t])
        assert np.allclose(got, np.einsum("hk,hkv->hv", q[t], state), rtol=1e-12, atol=1e-12)


def test_lrpe_sees_only_distances():
    q, k, _ = random_qkv(40)
    theta = np.linspace(0.01, 1.0, 12).reshape(3, 4)
    q2, k2 = ref.lrpe(q, theta), ref.lrpe(k, theta)
    for t, s in ((5, 2), (39, 0), (17, 17)):
        direct = np.sum(q[t] * k[s] * np.cos(theta * (t - s)), axis=-1)
        assert np.allclose(np.sum(q2[t] * k2[s], axis=-1), direct, rtol=1e-12, atol=1e-12)


def test_exp_activation_takes_the_maximum_of_each_head():
    x = np.array([[[1.0, 3.0], [100.0, 98.0]]])
    want = [[[math.exp(-2), 1.0], [1.0, math.exp(-2)]]]
    assert np.allclose(ref.ACTIVATIONS["exp"](x), want)


def test_bf16_widening():
    assert ref.bf16_to_f32(np.array([0x3F80, 0xC000, 0x0001], dtype="<u2")).tolist() == [
        1.0, -2.0, 2.0**-133]
