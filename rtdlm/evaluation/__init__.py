"""How good a model is and how healthy its training: numbers, not opinions."""

from rtdlm.evaluation.evaluator import TrainingEvaluator
from rtdlm.evaluation.gradients import GradientHealth, gradient_health, layer_norms
from rtdlm.evaluation.heldout import EvalStep, HeldOut, evaluate, make_eval_step
from rtdlm.evaluation.measure import measure, render
from rtdlm.evaluation.pricing import Pricing, pricing_of, with_price
from rtdlm.evaluation.sums import TokenSums, divisor, token_sums

__all__ = [
    "EvalStep",
    "GradientHealth",
    "HeldOut",
    "Pricing",
    "TokenSums",
    "TrainingEvaluator",
    "divisor",
    "evaluate",
    "gradient_health",
    "layer_norms",
    "make_eval_step",
    "measure",
    "pricing_of",
    "render",
    "token_sums",
    "with_price",
]
