"""The fit on synthetic data whose parameters are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmlf.benchmark.cost_model import (
    CollectiveSample,
    choose_knee,
    coefficients,
    errors,
    fit,
)
from dmlf.errors import ConfigError

ALPHA, BETA_S, BEYOND_S, GAMMA = 3e-5, 2e-10, 7e-10, 1.1e-10
SIZES = [1 << exponent for exponent in range(8, 27, 2)]
KNEE = 1 << 20


def measured(
    algorithms: tuple[str, ...] = ("ring", "tree", "parameter_server"),
    world_sizes: tuple[int, ...] = (2, 3, 4, 8),
    noise: float = 0.0,
    knee: bool = False,
    gamma: float = GAMMA,
) -> list[CollectiveSample]:
    generator = np.random.default_rng(12)
    found = []
    for algorithm in algorithms:
        for world_size in world_sizes:
            for size in SIZES:
                rounds, carried, added = coefficients(algorithm, world_size, size)
                beyond = max(0.0, 1 - KNEE / size) if knee else 0.0
                s_per_byte = BETA_S * (1 - beyond) + BEYOND_S * beyond
                exact_s = rounds * ALPHA + carried * s_per_byte + added * gamma
                factors = np.exp(noise * generator.standard_normal(7))
                seconds = tuple(float(exact_s * factor) for factor in factors)
                found.append(CollectiveSample(algorithm, "shm", world_size, size, seconds))
    return found


def test_without_noise_the_parameters_come_back() -> None:
    calibration = fit(measured())
    assert calibration.latency_s.median == pytest.approx(ALPHA)
    assert [estimate.median for estimate in calibration.s_per_byte] == pytest.approx([BETA_S])
    assert calibration.reduction_s_per_byte is not None
    assert calibration.reduction_s_per_byte.median == pytest.approx(GAMMA)
    assert errors(calibration, measured()).maximum < 1e-9


def test_intervals_hold_the_truth_and_are_narrow() -> None:
    calibration = fit(measured(noise=0.05))
    assert calibration.reduction_s_per_byte is not None
    for estimate, truth in (
        (calibration.latency_s, ALPHA),
        (calibration.s_per_byte[0], BETA_S),
        (calibration.reduction_s_per_byte, GAMMA),
    ):
        assert estimate.low is not None
        assert estimate.high is not None
        # dividing by noisy times pulls all parameters down by the square of the noise
        assert estimate.low < 0.995 * truth < estimate.high
        assert estimate.low < estimate.median < estimate.high
    latency = calibration.latency_s
    assert latency.high is not None
    assert latency.low is not None
    assert latency.high - latency.low < 0.1 * ALPHA


def test_rings_alone_cannot_tell_additions_from_bytes() -> None:
    calibration = fit(measured(("ring",)))
    assert calibration.reduction_s_per_byte is None
    # a ring adds half of the bytes that it carries
    assert calibration.s_per_byte[0].median == pytest.approx(BETA_S + GAMMA / 2)
    assert errors(calibration, measured(("ring",), (5, 16))).maximum < 1e-9


def test_no_parameter_is_negative() -> None:
    """Times that fall with size would want a negative bandwidth."""
    falling = [
        replace(sample, seconds=(1.0 / (1 + index),)) for index, sample in enumerate(measured())
    ]
    calibration = fit(falling)
    assert calibration.latency_s.median >= 0
    assert all(estimate.median >= 0 for estimate in calibration.s_per_byte)


def test_a_knee_is_found_where_it_is_and_only_there() -> None:
    assert choose_knee(measured(knee=True, noise=0.02)) == KNEE
    assert choose_knee(measured(noise=0.02)) is None
    calibration = fit(measured(knee=True), KNEE)
    assert [e.median for e in calibration.s_per_byte] == pytest.approx([BETA_S, BEYOND_S])


def test_held_out_sizes_and_world_sizes_are_predicted() -> None:
    samples = measured(noise=0.05)
    seen = [s for s in samples if s.world_size != 8 and s.num_bytes in SIZES[::2]]
    unseen = [s for s in samples if s not in seen]
    result = errors(fit(seen), unseen)
    assert result.median < 0.05
    assert result.maximum < 0.2
    assert len(result.residuals) == len(unseen)
    wrong = [replace(s, seconds=tuple(2 * value for value in s.seconds)) for s in unseen]
    assert errors(fit(seen), wrong).median == pytest.approx(0.5, abs=0.05)


def test_every_size_counts_alike() -> None:
    """One point in absolute seconds would decide everything: the largest."""
    samples = measured(("ring",), (2,))
    samples[-1] = replace(samples[-1], seconds=(samples[-1].median_s * 1.5,))
    assert errors(fit(samples), samples[:3]).maximum < 0.05


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"algorithm": "butterfly"}, "algorithm"),
        ({"world_size": 0}, "world_size"),
        ({"num_bytes": -1}, "num_bytes"),
        ({"seconds": ()}, "seconds"),
        ({"seconds": (1.0, 0.0)}, "seconds"),
        ({"seconds": (float("nan"),)}, "seconds"),
    ],
)
def test_a_bad_sample_is_refused(changes: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(measured()[0], **changes)
    assert caught.value.key == key


def test_too_few_or_mixed_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="one transport"):
        fit([measured()[0], replace(measured()[1], transport="queue")])
    with pytest.raises(ConfigError, match="one transport"):
        fit([])
    with pytest.raises(ConfigError, match="held out"):
        errors(fit(measured()), [])
    with pytest.raises(ConfigError):
        coefficients("butterfly", 2, 8)
