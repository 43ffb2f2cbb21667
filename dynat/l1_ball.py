"""The L1 ball within [0,1]: the exact projection, the sparse step of steepest ascent, and a uniform sample.

The projection onto the intersection of ball and box is that of Croce & Hein (2021, Mind the Box), here by a sort: the
nearest offset is |v| - t, cut to what the box leaves, for the one t at which these add up to eps. The step is that of
Tramer & Boneh (2019, SLIDE): along the sign of the largest gradients that point into the box.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHARE = 0.01
"""Share of an image's values that one step changes."""


def project(candidate: Tensor, center: Tensor, eps: float) -> Tensor:
    """The image inside the ball and inside [0,1] that is nearest to the candidate in L2. Rounding moves it inward."""
    middle = center.double()
    offset = candidate.double() - middle
    room = torch.where(offset > 0, 1 - middle, middle)
    length, most = offset.abs().flatten(1), room.flatten(1)
    kept = (length - _threshold(length, most, eps)[:, None]).clamp(min=0).minimum(most).view_as(offset)
    nearest = (middle + offset.sign() * kept).to(center.dtype)
    too_far = (nearest.double() - middle).abs() > kept
    return torch.where(too_far, torch.nextafter(nearest, center), nearest).clamp(0.0, 1.0)


def _threshold(length: Tensor, most: Tensor, eps: float) -> Tensor:
    """For each image the t of at least zero at which min(max(length - t, 0), most) adds up to eps, or to less at zero.

    The sum falls with t, along straight lines between the points where a value begins or ceases to shrink.
    """
    begins, ends = (length - most).clamp(min=0), length
    points, order = torch.cat([begins, ends], 1).sort(1)
    change = torch.ones_like(points)
    change[order >= length.shape[1]] = -1
    shrinking = change.cumsum(1)
    fallen = (shrinking[:, :-1] * points.diff(dim=1)).cumsum(1)
    totals = length.minimum(most).sum(1, keepdim=True) - torch.nn.functional.pad(fallen, (1, 0))
    last = ((totals >= eps).sum(1, keepdim=True) - 1).clamp(min=0)  # the line on which eps is
    start, total, slope = (values.gather(1, last)[:, 0] for values in (points, totals, shrinking))
    threshold = start + (total - eps).clamp(min=0) / slope.clamp(min=1)
    return torch.where(totals[:, 0] > eps, threshold, 0.0)


def direction(point: Tensor, gradient: Tensor) -> Tensor:
    """The sign of the largest gradients that do not point out of [0,1], divided by their number."""
    outward = ((point <= 0) & (gradient < 0)) | ((point >= 1) & (gradient > 0))
    strength = gradient.abs().masked_fill(outward, 0.0).flatten(1)
    count = max(1, math.ceil(SHARE * (strength.shape[1] - 1)))
    smallest = strength.topk(count, dim=1).values[:, -1:]
    chosen = ((strength >= smallest) & (strength > 0)).view_as(gradient)
    number = chosen.flatten(1).sum(1).clamp(min=1).view(-1, 1, 1, 1)
    return gradient.sign() * chosen / number


def sample(center: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """An offset that is uniform in the volume of the ball: exponential lengths, divided by their sum and one more."""
    sizes = torch.empty_like(center).exponential_(generator=generator)
    more = torch.empty(len(center), 1, 1, 1, dtype=center.dtype, device=center.device).exponential_(generator=generator)
    signs = torch.randint(2, center.shape, generator=generator, device=center.device) * 2 - 1
    return eps * signs * sizes / (sizes.flatten(1).sum(1).view(-1, 1, 1, 1) + more)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """The L1 distance, added up in double precision: the sum of a float32 image's many values would round."""
    return (a.double() - b.double()).flatten(1).abs().sum(1)
