"""Drives that are made up: an ECG, the vehicle's signals and what is known of the trip, calm, busy or stressed."""

from __future__ import annotations

import numpy as np

STRESS = ("low", "medium", "high")
RATE, SECONDS = 16, 32  # steps a second, seconds of a window
CHANNELS = ("ecg", "steering", "speed")
# By level: heart beats a minute, their irregularity (a share of the interval), steering in degrees a second, and how
# the speed swings in km/h.
LEVELS = ((68.0, 0.060, 3.0, 2.0), (80.0, 0.040, 6.0, 5.0), (92.0, 0.025, 9.0, 8.0))
PERSON, TRIP = 9.0, 2.5  # deviations of a driver's own pulse at rest, and of the steering that a road asks for
ROADS = ("motorway", "country", "city")
WEATHERS = ("sun", "rain", "fog")
# How likely each level is, by how hard the trip is: of which the context tells a part.
HARD = np.array([[0.6, 0.3, 0.1], [0.25, 0.5, 0.25], [0.1, 0.3, 0.6]])


def drive(random: np.random.Generator, driver: np.random.Generator) -> dict:
    """
    A window of one drive.

    Args:
        random: draws the drive.
        driver: draws what is the driver's own; in the same state for all drives of one.

    Returns:
        `dict`: `signals` [steps, 3] of the `CHANNELS`, with gaps where a sensor failed; `road`, `weather`, `hour` and
        `traffic` (None where unknown); `stress`.
    """
    rest, amplitude = driver.normal(0, PERSON), driver.uniform(0.8, 1.2)
    road, weather = (int(random.integers(3)) for _ in range(2))
    traffic, hour = random.uniform(0, 1), random.uniform(0, 24)
    hardness = 0.5 * road + 0.5 * weather + 2 * traffic + (1 if hour < 6 or hour > 22 else 0) + random.normal(0, 0.4)
    level = int(random.choice(3, p=HARD[0 if hardness < 1.6 else 1 if hardness < 2.4 else 2]))
    pulse, irregular, steering, swing = LEVELS[level]
    steps = np.arange(RATE * SECONDS) / RATE
    signals = np.stack(
        [
            amplitude * beats(steps, pulse + rest, irregular, random),
            wandering(steps, steering + random.normal(0, TRIP), 0.5, random),
            (110, 80, 40)[road] + wandering(steps, swing, 4.0, random),
        ],
        axis=1,
    )
    signals += random.normal(0, [0.05, 0.5, 0.5], signals.shape)
    if random.random() < 0.2:  # a sensor that fails for a while
        start = int(random.integers(len(steps) // 2))
        signals[start : start + RATE * 4, random.integers(3)] = np.nan
    return {
        "signals": signals.round(3),
        "road": ROADS[road],
        "weather": WEATHERS[weather],
        "hour": round(hour, 1),
        "traffic": None if random.random() < 0.1 else round(traffic, 2),
        "stress": STRESS[level],
    }


def beats(steps: np.ndarray, pulse: float, irregular: float, random: np.random.Generator) -> np.ndarray:
    """An ECG of which no more is drawn than a peak and a wave a beat, [steps]; pulse in beats a minute."""
    interval, at, found = 60 / max(pulse, 40.0), random.uniform(0, 0.8), np.zeros(len(steps))
    while at < steps[-1]:
        found += np.exp(-(((steps - at) / 0.06) ** 2)) + 0.3 * np.exp(-(((steps - at - 0.28) / 0.09) ** 2))
        at += interval * max(0.4, 1 + random.normal(0, irregular))
    return found


def wandering(steps: np.ndarray, size: float, seconds: float, random: np.random.Generator) -> np.ndarray:
    """Noise that changes within so many seconds, of a deviation of `size`, [steps]."""
    width = max(1, int(seconds * RATE))
    noise = np.convolve(random.normal(size=len(steps) + width - 1), np.ones(width) / width**0.5, mode="valid")
    return max(size, 0.1) * noise
