"""Solvers of linear equations A x = b that ask for A's products with vectors alone, on pytrees of any shapes.

    solver = neo.linear.cg(iterations=50)
    x = solver(lambda v: neo.hvp(loss, params, v), b)

Each solver is a value with its settings, called with `apply`, a linear function of a pytree like b, and b. What it
gives is differentiated by the equation it solves, not through its iterations, at every order: by b, and by what apply
uses.
"""

from neo.linear._conjugate_gradients import cg
from neo.linear._gmres import gmres
from neo.linear._neumann import neumann
from neo.linear._solver import Report, Solver

__all__ = ["Report", "Solver", "cg", "gmres", "neumann"]
