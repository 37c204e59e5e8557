"""Compute where it pays: what to run, for whom, and when to stop.

    decision = ComputeController(num_steps=8)(summary, step=s, price_N=price, spent_N=spent)
    log_p = log_halting(decision.halt_N of every step but the last)
    loss = expected(exp(log_p), loss_of_every_exit) + exit_loss(log_p, best_exit(...))
    price_for(budget, mean_cost_at, low=.02, high=20)       # after training
    run_active(step, rows, ~halted)                         # saves the time of the halted

Modules that a controller calls declare a `Contract`.
"""

from rtdlm.modules.controller.contract import Contract, Unit
from rtdlm.modules.controller.controller import ComputeController, Decision
from rtdlm.modules.controller.copy_gate import CopyGate
from rtdlm.modules.controller.exits import (
    best_exit,
    divergence_from_uniform,
    exit_loss,
    expected,
    median_exit,
    stays,
)
from rtdlm.modules.controller.ladder import run_active, rung_of, rungs
from rtdlm.modules.controller.policy import entropy, leave_one_out, reinforce, utilisation
from rtdlm.modules.controller.price import Priced, price_for, sample_prices

__all__ = [
    "ComputeController",
    "Contract",
    "CopyGate",
    "Decision",
    "Priced",
    "Unit",
    "best_exit",
    "divergence_from_uniform",
    "entropy",
    "exit_loss",
    "expected",
    "leave_one_out",
    "median_exit",
    "price_for",
    "reinforce",
    "run_active",
    "rung_of",
    "rungs",
    "sample_prices",
    "stays",
    "utilisation",
]
