"""Per-channel coefficients from statistics (arithmetic specification, sections 5 to 7): a few wide operations each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .block import Float64
from .spec import NormSpec
from .wide import add, divide, multiply, round_integers

__all__ = ["Affine", "GradTerms", "affine", "grad_terms", "mean_and_sigma", "running"]


@dataclass(frozen=True)
class Affine:
    """invstd (K), scale (A) and shift (K) of each channel: y = scale * x + shift."""

    invstd: Float64
    scale: Float64
    shift: Float64


def mean_and_sigma(
    total: list[int], range_total: list[int], inv_count: float, range_gain: float, spec: NormSpec
) -> tuple[Float64, Float64]:
    """mean = K(K(S) * inv_count), sigma = K(K(T - U) * range_gain)."""
    unit = spec.activation.min_exponent
    rounded = round_integers(total, unit, spec.coef)
    ranges = round_integers(range_total, unit, spec.coef)
    return multiply(rounded, inv_count, spec.coef), multiply(ranges, range_gain, spec.coef)


def inverse_std(sigma: Float64, eps: float, spec: NormSpec) -> Float64:
    """K(1 / K(sigma + eps)); 0 for a channel without range, which carries no information."""
    flat = sigma == 0
    return np.where(flat, 0.0, divide(1.0, np.where(flat, 1.0, add(sigma, np.asarray(eps), spec.coef)), spec.coef))


def affine(mean: Float64, sigma: Float64, weight: Float64, bias: Float64, eps: float, spec: NormSpec) -> Affine:
    """The shift uses the rounded scale, so that the scale's rounding error does not move the mean."""
    invstd = inverse_std(sigma, eps, spec)
    scale = multiply(weight, invstd, spec.scale)
    return Affine(invstd, scale, add(bias, -multiply(scale, mean, spec.coef), spec.coef))


def running(old: Float64, new: Float64, momentum: float, spec: NormSpec) -> Float64:
    """K(old + K(momentum * K(new - old)))."""
    return add(old, multiply(add(new, -old, spec.coef), momentum, spec.coef), spec.coef)


@dataclass(frozen=True)
class GradTerms:
    """Gradients of the parameters and the term b of dx = scale * g + b: ordinary, a chunk's max, a chunk's min."""

    grad_weight: Float64
    grad_bias: Float64
    ordinary: Float64
    at_max: Float64
    at_min: Float64


def grad_terms(
    grad_total: list[int],
    product_total: list[int],
    mean: Float64,
    invstd: Float64,
    scale: Float64,
    inv_count: float,
    range_gain: float,
    spec: NormSpec,
) -> GradTerms:
    """From Q (units of the gradient's step) and D (units of the product of both steps)."""
    coef, unit = spec.coef, spec.gradient.min_exponent
    grad_bias = round_integers(grad_total, unit, coef)
    product = round_integers(product_total, unit + spec.activation.min_exponent, coef)
    grad_weight = multiply(invstd, add(product, -multiply(mean, grad_bias, coef), coef), coef)
    center = multiply(scale, multiply(grad_bias, inv_count, coef), coef)
    ext = multiply(scale, multiply(grad_weight, range_gain, coef), coef)
    return GradTerms(grad_weight, grad_bias, 0.0 - center, add(-center, -ext, coef), add(-center, ext, coef))
