"""``scrflow plan``: what a scene will cost, from measured rates, and whether it fits, before anything starts."""

from scrflow.cli.plan.command import PlanRequest, plan
from scrflow.cli.plan.rates import Rates, load_rates
from scrflow.cli.plan.stages import Stage, stages_of
from scrflow.cli.plan.workload import Workload

__all__ = ["PlanRequest", "Rates", "Stage", "Workload", "load_rates", "plan", "stages_of"]
