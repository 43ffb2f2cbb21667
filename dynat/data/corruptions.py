"""Corruptions made from test images, after the definitions of CIFAR-10-C (Hendrycks and Dietterich 2019).

The severities are the published constants for 32 x 32 pixels, in steps from 1 to 5. Exact up to its random numbers:
gaussian_noise, shot_noise, impulse_noise, speckle_noise, glass_blur. Exact up to rounding: gaussian_blur, defocus_blur,
zoom_blur, brightness, contrast, saturate. pixelate and jpeg_compression depend on the version of PIL and of its JPEG
library. For images of another size the constants are the same, so that blurs of larger images are weaker than in the
archives made for those.

Every image has random numbers of its own, drawn from (seed, corruption, severity, number of the image).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from dynat.config.corruptions import ADDITIONAL, BENCHMARK

Pixels = NDArray[np.float64]
"""N x height x width x channels in [0,1]."""
Random = Sequence[Generator]
"""One per image."""
ORDER = (*BENCHMARK, *ADDITIONAL)


def corrupt(images: NDArray[np.uint8], kind: str, severity: int, *, seed: int, first: int = 0) -> NDArray[np.uint8]:
    """Bytes N x height x width x channels, corrupted; `first` is the number of the first image in the test set."""
    number = ORDER.index(kind)
    random = [Generator(PCG64(SeedSequence((seed, number, severity, first + index)))) for index in range(len(images))]
    corrupted = CORRUPTIONS[kind](images / 255.0, severity - 1, random)
    return (np.clip(corrupted, 0, 1) * 255).astype(np.uint8)  # cut off and not rounded, as published


# --- noise ----------------------------------------------------------------------------------------------------


def gaussian_noise(x: Pixels, severity: int, random: Random) -> Pixels:
    scale = (0.04, 0.06, 0.08, 0.09, 0.10)[severity]
    return x + np.stack([one.normal(scale=scale, size=x.shape[1:]) for one in random])


def shot_noise(x: Pixels, severity: int, random: Random) -> Pixels:
    photons = (500, 250, 100, 75, 50)[severity]
    return np.stack([one.poisson(photons * image) for image, one in zip(x, random, strict=True)]) / photons


def impulse_noise(x: Pixels, severity: int, random: Random) -> Pixels:
    """A share of all values becomes black or white, with equal chances."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity]
    chosen = np.stack([one.random(x.shape[1:]) for one in random]) < share
    white = np.stack([one.random(x.shape[1:]) for one in random]) < 0.5
    return np.where(chosen, white.astype(x.dtype), x)


def speckle_noise(x: Pixels, severity: int, random: Random) -> Pixels:
    scale = (0.06, 0.1, 0.12, 0.16, 0.2)[severity]
    return x * (1 + np.stack([one.normal(scale=scale, size=x.shape[1:]) for one in random]))


# --- blur -----------------------------------------------------------------------------------------------------


def gaussian_blur(x: Pixels, severity: int, random: Random) -> Pixels:  # noqa: ARG001 - they share a signature
    return _gaussian(x, (0.4, 0.6, 0.7, 0.8, 1.0)[severity])


def defocus_blur(x: Pixels, severity: int, random: Random) -> Pixels:  # noqa: ARG001
    """The mean over a disk whose border is smoothed."""
    radius, smoothing = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity]
    offset = np.arange(-8, 9)
    disk = (offset[:, None] ** 2 + offset**2 <= radius**2).astype(float)
    border = np.exp(-np.array([1, 0, 1]) / (2 * smoothing**2))
    kernel = disk / disk.sum()
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, border / border.sum(), axis=axis, mode="mirror")
    blurred: Pixels = ndimage.correlate(x, kernel[None, :, :, None], mode="mirror")
    return blurred


def glass_blur(x: Pixels, severity: int, random: Random) -> Pixels:
    """Pixels take the value of a neighbor, between two small blurs."""
    sigma, reach, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity]
    blurred = np.floor(_gaussian(x, sigma) * 255) / 255
    count, height, width = x.shape[:3]
    moves = np.stack([one.integers(-reach, reach, size=(rounds, height, width, 2)) for one in random])
    image = np.arange(count)
    for turn in range(rounds):
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                down, right = moves[:, turn, row, column].T
                blurred[:, row, column] = blurred[image, row + down, column + right]
    return _gaussian(blurred, sigma)


def zoom_blur(x: Pixels, severity: int, random: Random) -> Pixels:  # noqa: ARG001
    """The mean of the image and of itself at growing magnifications."""
    end = (1.06, 1.11, 1.16, 1.21, 1.26)[severity]
    factors = np.arange(1, end, 0.01)
    zoomed = np.sum([_zoomed(x, factor) for factor in factors], axis=0)
    blurred: Pixels = (x + zoomed) / (len(factors) + 1)
    return blurred


def _gaussian(x: Pixels, sigma: float) -> Pixels:
    blurred: Pixels = ndimage.gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest", truncate=4.0)
    return blurred


def _zoomed(x: Pixels, factor: float) -> Pixels:
    """The middle of each image, magnified to its size by linear interpolation."""
    down, across = (_magnified(side, factor) for side in x.shape[1:3])
    rows = np.tensordot(x, down, axes=(1, 1))  # image, column, channel, new row
    zoomed: Pixels = np.tensordot(rows, across, axes=(1, 1)).transpose(0, 2, 3, 1)
    return zoomed


def _magnified(side: int, factor: float) -> NDArray[np.float64]:
    """The matrix that takes a line of so many pixels to its magnified middle."""
    inner = ceil(side / factor)
    large, first = round(inner * factor), (side - inner) // 2
    place = np.linspace(0, inner - 1, large)
    matrix = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(inner)))
    cut = matrix[(large - side) // 2 :][:side]
    return np.pad(cut, ((0, 0), (first, side - inner - first)))


# --- colors and digital ---------------------------------------------------------------------------------------


def brightness(x: Pixels, severity: int, random: Random) -> Pixels:  # noqa: ARG001
    """The value in HSV grows: color and saturation stay, so that the channels keep their ratios."""
    value: Pixels = x.max(axis=3, keepdims=True)
    brighter = np.clip(value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity], 0, 1)
    return np.where(value > 0, x * (brighter / np.where(value > 0, value, 1)), brighter)


def contrast(x: Pixels, severity: int, random: Random) -> Pixels:  # noqa: ARG001
    mean: Pixels = x.mean(axis=(1, 2), keepdims=True)
    return mean + (0.75, 0.5, 0.4, 0.3, 0.15)[severity] * (x - mean)


def saturate(x: Pixels, severity: int, random: Random) -> Pixels:  # noqa: ARG001
    """The saturation in HSV changes; a gray pixel has the color red there."""
    factor, more = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity]
    value: Pixels = x.max(axis=3, keepdims=True)
    depth = value - x
    deepest = depth.max(axis=3, keepdims=True)
    saturation = deepest / np.where(value > 0, value, 1)
    red = np.zeros_like(x) + np.array([0.0, 1.0, 1.0])
    hue = np.where(deepest > 0, depth / np.where(deepest > 0, deepest, 1), red)
    changed: Pixels = value * (1 - hue * np.clip(factor * saturation + more, 0, 1))
    return changed


def jpeg_compression(x: Pixels, severity: int, random: Random) -> Pixels:  # noqa: ARG001
    def compressed(image: Image.Image) -> Image.Image:
        content = io.BytesIO()
        image.save(content, "JPEG", quality=(80, 65, 58, 50, 40)[severity])
        return Image.open(content, formats=("JPEG",))

    return _by_image(x, compressed)


def pixelate(x: Pixels, severity: int, random: Random) -> Pixels:  # noqa: ARG001
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity]

    def coarse(image: Image.Image) -> Image.Image:
        small = (int(image.width * share), int(image.height * share))
        return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

    return _by_image(x, coarse)


def _by_image(x: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """Each image through PIL. A thousandth of a gray level keeps it when the bytes are cut off."""
    images = np.round(x * 255).astype(np.uint8)
    gray = images.shape[3] == 1
    changed = [np.asarray(change(Image.fromarray(image[..., 0] if gray else image))) for image in images]
    return (np.stack(changed).reshape(x.shape) + 0.001) / 255


CORRUPTIONS: dict[str, Callable[[Pixels, int, Random], Pixels]] = {
    function.__name__: function
    for function in (
        gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, zoom_blur, brightness, contrast, pixelate,
        jpeg_compression, speckle_noise, gaussian_blur, saturate,
    )
}  # fmt: skip


def possible(kind: str, channels: int) -> bool:
    """Whether it can be made of images with so many channels: gray images have no saturation."""
    return kind in CORRUPTIONS and (channels == 3 or kind != "saturate")
