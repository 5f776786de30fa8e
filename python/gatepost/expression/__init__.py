"""Conditions that users write, in the Common Expression Language (CEL): one engine for all who take conditions.

`compile_expression` checks a text against an `Environment` (the names it may use, with their types) and makes a `Program`, once;
`Program.evaluate` is then a few function calls. Knows nothing of mail. docs/expressions.md is its manual. Fails by ExpressionError when
saved, by EvaluationError when a value makes the condition meaningless (division by zero); never by type, and never by taking long.
"""

from gatepost.expression.errors import EvaluationError, ExpressionError
from gatepost.expression.program import COST_MAX, Program, compile_expression
from gatepost.expression.types import BOOL, DOUBLE, INT, STRING, Environment, Field, ListOf, Method, Record, Type

__all__ = [
    "BOOL",
    "COST_MAX",
    "DOUBLE",
    "INT",
    "STRING",
    "Environment",
    "EvaluationError",
    "ExpressionError",
    "Field",
    "ListOf",
    "Method",
    "Program",
    "Record",
    "Type",
    "compile_expression",
]
