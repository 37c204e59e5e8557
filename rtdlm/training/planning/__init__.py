"""Planning: does a run fit, what does it cost, and how should its devices be arranged."""

from rtdlm.training.planning.advice import verdict
from rtdlm.training.planning.memory import ModelMemory, estimate_model_memory
from rtdlm.training.planning.plan import Plan, make_plan
from rtdlm.training.planning.program import compile_step
from rtdlm.training.planning.recommend import (
    Recommendation,
    decide_mesh,
    recommend_parallelism,
    recommendation_table,
)
from rtdlm.training.planning.report import render, to_dict

__all__ = [
    "ModelMemory",
    "Plan",
    "Recommendation",
    "compile_step",
    "decide_mesh",
    "estimate_model_memory",
    "make_plan",
    "recommend_parallelism",
    "recommendation_table",
    "render",
    "to_dict",
    "verdict",
]
