"""The exact operator: its definition, its order independence, its error bound, its edges."""

import itertools
import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from dmlf.numerics import error_bound, exact_sum
from dmlf.numerics.exact import ALL_ZERO, MAX_TERMS, NON_FINITE, group_exponent
from tests.numerics.truth import (
    LARGEST,
    PROPERTY,
    SUBNORMAL,
    bits,
    fixed_point_sum,
    term_arrays,
    true_sums,
    unit_of,
)


def float32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def half_ulp32(value: float) -> Fraction:
    """Half the distance of float32 numbers in the binade of `value`."""
    return Fraction(2) ** (max(math.frexp(value)[1], -125) - 25) if value else Fraction(2) ** -150


@PROPERTY
@given(term_arrays())
def test_it_is_the_fixed_point_sum_of_its_definition(terms: np.ndarray) -> None:
    assert bits(exact_sum(list(terms))) == bits(fixed_point_sum(terms))


@PROPERTY
@given(term_arrays(min_terms=2), st.data())
def test_no_permutation_changes_a_bit(terms: np.ndarray, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(terms))))
    assert bits(exact_sum([terms[i] for i in order])) == bits(exact_sum(list(terms)))


@PROPERTY
@given(term_arrays())
def test_the_error_bound_is_never_exceeded(terms: np.ndarray) -> None:
    result = exact_sum(list(terms))
    conversion = Fraction(error_bound(list(terms)))
    assert conversion == len(terms) * unit_of(terms) / 2
    for value, truth in zip(result, true_sums(terms), strict=True):
        if math.isinf(value):  # only a sum that float32 cannot hold
            assert abs(truth) + conversion >= Fraction(2**128 - 2**103)
            assert math.copysign(1.0, value) == math.copysign(1.0, truth)
            continue
        final = half_ulp32(float(value))
        double_rounding = abs(Fraction(float(value))) / 2**53
        assert abs(Fraction(float(value)) - truth) <= conversion + final + double_rounding


def test_naive_addition_would_fail_the_test_of_permutations() -> None:
    """The order does matter to float32: the property above is not empty."""
    terms = float32(1.0, 2.0**-24, 2.0**-24)
    forward = (terms[0] + terms[1]) + terms[2]
    backward = (terms[2] + terms[1]) + terms[0]
    assert forward != backward
    assert exact_sum([terms[i : i + 1] for i in range(3)]) == np.float32(1.0 + 2.0**-23)


def test_what_cancels_is_not_lost() -> None:
    terms = [float32(1e8), float32(1.0), float32(-1e8)]
    assert (terms[0] + terms[1]) + terms[2] == 0.0  # float32 loses the 1
    assert exact_sum(terms) == 1.0


def test_a_term_is_exact_down_to_2_to_the_minus_27_of_the_largest() -> None:
    odd = 1.0 + 2.0**-23  # a float32 with its last bit set
    exact, rounded = 2.0**-27 * odd, 2.0**-28 * odd
    result = exact_sum([float32(1.0, exact, rounded)])
    assert result[1] == np.float32(exact)
    assert result[2] == np.float32(2.0**-28)  # half a unit, to even
    assert result[2] != np.float32(rounded)


@pytest.mark.parametrize(
    ("units", "rounded"), [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (-2.5, -2)]
)
def test_terms_are_rounded_half_to_even(units: float, rounded: int) -> None:
    unit = 2.0**-50  # of a group whose largest magnitude is 1
    result = exact_sum([float32(1.0, units * unit)])
    assert bits(result[1:]) == bits(float32(rounded * unit))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_4096_terms_of_the_largest_magnitude_do_not_overflow(sign: float) -> None:
    below = sign * math.ldexp(1.0 - 2.0**-24, 100)  # the largest below 2^100
    total = exact_sum([float32(below, -below)] * MAX_TERMS)
    assert bits(total) == bits(float32(MAX_TERMS * below, -MAX_TERMS * below))


@pytest.mark.parametrize("count", [0, MAX_TERMS + 1])
def test_another_number_of_terms_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=str(count)):
        exact_sum([float32(1.0)] * count)


def test_a_sum_beyond_float32_is_infinite_and_an_intermediate_one_is_not() -> None:
    assert bits(exact_sum([float32(LARGEST, -LARGEST)] * 2)) == bits(float32(np.inf, -np.inf))
    terms = [float32(LARGEST), float32(LARGEST), float32(-LARGEST)]
    assert bits(exact_sum(terms)) == bits(float32(LARGEST))


def test_subnormals_are_summed_exactly() -> None:
    terms = [float32(SUBNORMAL, -3 * SUBNORMAL, 2.0**-126)] * 3
    assert bits(exact_sum(terms)) == bits(float32(3 * SUBNORMAL, -9 * SUBNORMAL, 3 * 2.0**-126))


@pytest.mark.parametrize("other", [0.0, 1.0], ids=["in a group of zeros", "beside a number"])
def test_a_zero_sum_is_positive_zero(other: float) -> None:
    assert bits(exact_sum([float32(-0.0, other)]))[0] == 0
    assert bits(exact_sum([float32(-0.0, other), float32(-0.0, other)]))[0] == 0
    assert bits(exact_sum([float32(2.5, other), float32(-2.5, other)]))[0] == 0


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(3))
def test_a_value_that_is_not_finite_poisons_the_whole_group(poison: float, place: int) -> None:
    terms = [float32(1.0, 2.0), float32(3.0, 4.0), float32(5.0, 6.0)]
    terms[place][1] = poison
    assert np.isnan(exact_sum(terms)).all()


def test_a_signalling_nan_is_found_without_a_warning() -> None:
    signalling = np.array([0x7F800001] * 40, dtype=np.uint32).view(np.float32)
    assert group_exponent(signalling) == NON_FINITE


@pytest.mark.parametrize(
    ("values", "exponent"),
    [
        ((), ALL_ZERO),
        ((0.0, -0.0), ALL_ZERO),
        ((1.0,), 1),
        ((-1.0, 0.5), 1),
        ((0.99,), 0),
        ((-(2.0**-149),), -148),
        ((LARGEST,), 128),
        ((np.nan, 1.0), NON_FINITE),
        ((-np.inf, 1.0), NON_FINITE),
    ],
)
def test_the_exponent_is_the_smallest_that_bounds_the_group(
    values: tuple[float, ...], exponent: int
) -> None:
    assert group_exponent(float32(*values)) == exponent


@pytest.mark.parametrize("numel", [32_767, 32_768, 32_769, 100_003])
def test_blocks_join_without_a_seam(numel: int) -> None:
    generator = np.random.default_rng(numel)
    terms = generator.standard_normal((3, numel)).astype(np.float32)
    terms[0, 0] = 4.0  # every part below holds the group's largest element: the same exponent
    whole = exact_sum(list(terms))
    cuts = [0, 1, numel // 3, numel // 2, numel]
    for start, stop in itertools.pairwise(cuts):
        part = [np.append(term[start:stop], term[0]) for term in terms]
        assert bits(exact_sum(part)[:-1]) == bits(whole[start:stop])


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 4)])
def test_the_shape_is_kept_and_the_terms_are_left_alone(shape: tuple[int, ...]) -> None:
    terms = [np.full(shape, value, dtype=np.float32) for value in (1.5, 2.5)]
    total = exact_sum(terms)
    assert isinstance(total, np.ndarray)
    assert total.shape == shape
    assert total.dtype == np.float32
    assert (total == 4.0).all()
    assert (terms[0] == 1.5).all()
    assert (terms[1] == 2.5).all()


def test_strided_terms_are_summed_like_contiguous_ones() -> None:
    terms = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)
    strided = exact_sum([term.T[::2] for term in terms])
    assert bits(strided.ravel()) == bits(exact_sum(list(terms)).T[::2].ravel())


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(2),
        np.zeros(2, dtype=np.float16),
        np.zeros(3, dtype=np.float32),
        np.zeros((2, 1), dtype=np.float32),
        np.zeros(2, dtype=">f4"),
        [0.0, 0.0],
        None,
    ],
    ids=["float64", "float16", "longer", "column", "big endian", "list", "none"],
)
def test_a_term_of_another_kind_is_refused_by_its_index(bad: object) -> None:
    with pytest.raises(ValueError, match="term 1"):
        exact_sum([np.zeros(2, dtype=np.float32), bad])


def test_tensors_give_a_tensor_of_the_same_bits() -> None:
    torch = pytest.importorskip("torch")
    terms = np.random.default_rng(1).standard_normal((3, 4, 5)).astype(np.float32)
    parameters = [torch.nn.Parameter(torch.from_numpy(term)) for term in terms]
    total = exact_sum(parameters)
    assert isinstance(total, torch.Tensor)
    assert not total.requires_grad
    assert bits(total.numpy()) == bits(exact_sum(list(terms)))


def test_a_tensor_of_another_dtype_or_place_is_refused() -> None:
    torch = pytest.importorskip("torch")
    for bad in (
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(2, dtype=torch.bfloat16),
        torch.zeros(2, device="meta"),
        torch.zeros(2).to_sparse(),
    ):
        with pytest.raises(ValueError, match="term 1"):
            exact_sum([torch.zeros(2), bad])
