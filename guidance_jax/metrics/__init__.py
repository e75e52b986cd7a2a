"""Measures of samples, one per file.

Features are computed in float32 at the highest matmul precision, statistics in float64 on the host.
"""

from guidance_jax.metrics.bootstrap import Estimate, bootstrap
from guidance_jax.metrics.calibration import LevelReport, by_level, expected_calibration_error
from guidance_jax.metrics.diversity import within_class_diversity
from guidance_jax.metrics.fid import Measures, Reference, measure_features, measure_images, protocol
from guidance_jax.metrics.frechet import frechet_bias, frechet_distance
from guidance_jax.metrics.inception import InceptionExtractor, load_inception
from guidance_jax.metrics.inception_score import inception_score
from guidance_jax.metrics.kernel_distance import kernel_distance
from guidance_jax.metrics.moments import Moments
from guidance_jax.metrics.precision_recall import density_coverage, precision_recall
from guidance_jax.metrics.report import Report, evaluate
from guidance_jax.metrics.shards import extract_features

__all__ = [
    "Estimate",
    "InceptionExtractor",
    "LevelReport",
    "Measures",
    "Moments",
    "Reference",
    "Report",
    "bootstrap",
    "by_level",
    "density_coverage",
    "evaluate",
    "expected_calibration_error",
    "extract_features",
    "frechet_bias",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "load_inception",
    "measure_features",
    "measure_images",
    "precision_recall",
    "protocol",
    "within_class_diversity",
]
