"""Operators of ai.onnx.ml that have a derivative, and those of training; zero.py has the others."""

from onnxgrad.registry import not_implemented

for _name in (
    "ArrayFeatureExtractor",
    "FeatureVectorizer",
    "Imputer",
    "LinearClassifier",
    "LinearRegressor",
    "Normalizer",
    "SVMClassifier",
    "SVMRegressor",
    "Scaler",
):
    not_implemented(f"ai.onnx.ml::{_name}", reason="no rule yet for the operators of ai.onnx.ml")

for _name in ("Adagrad", "Adam", "Gradient", "Momentum"):
    not_implemented(
        f"ai.onnx.preview.training::{_name}",
        reason="not lowered to the standard's operators yet, and no runtime executes it",
    )
