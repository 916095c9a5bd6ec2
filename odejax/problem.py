"""What a call of `solve` asks: the user's functions, traced once, and the outputs in their structures."""

import jax
import jax.core
import jax.numpy as jnp
from jax import lax

from odejax import arguments
from odejax.core.blocks import MOST_LANES, MOST_LANES_OF_ARRAYS
from odejax.core.components import TooLarge
from odejax.core.leaves import nan_unless, real_dtype, shapes
from odejax.core.status import Status
from odejax.derivative.program import Output as ProgramOutput
from odejax.derivative.program import Program
from odejax.derivative.record import Inputs
from odejax.integrate import build
from odejax.integrate.forms import Form
from odejax.integrate.methods import first_status, most_components, scheme_and_attempt
from odejax.integrate.plan import AtTime, Output, Plan, capacity
from odejax.solution import Dense, Solution, Statistics


class Problem:
    """The user's functions, traced once, and what is asked of the solution."""

    def __init__(self, f, y0, t_span, args, save_fn, mass, options):
        self.method, self.save_steps, self.dense_steps, self.room, _, components, *others = options
        self.n_lanes, self.structure, self.mass = others
        components = most_components(self.method, self.structure, components)
        self.t_span, self.args, self.save_fn = t_span, args, save_fn
        leaves, self.tree = jax.tree.flatten(y0)
        self.time, self.y0_tree = t_span[0].astype(arguments.real_dtype(y0)), y0
        self.theta = []
        is_small = sum(leaf.size for leaf in leaves) <= components
        self.form = Form.of(leaves, components if is_small else 0)
        try:
            traced = self._function(f, lambda out: build.check_slope(out, y0), like=y0)
        except TooLarge:
            self.form = Form.of(leaves, 0)
            traced = self._function(f, lambda out: build.check_slope(out, y0), like=y0)
        self.f = traced.function
        self.y0 = self.form.apart(leaves)
        if self.mass is not None:
            mass = self.form.apart(mass) if self.mass.is_diagonal else mass
            self.mass = self.mass.added_to(self.theta, mass)
        self.outputs, self.program_outputs, self.shapes, self.queries = [], [], [], []

    def _function(self, fn, check_out, like=None):
        return build.trace(fn, self.time, self.y0_tree, self.args, self.theta, check_out, like, self.form)

    def add_saved(self, count, times):
        """Rows of what `save_fn` makes of the state: at `times`, or after each step."""
        fn = self.save_fn or (lambda t, y, *args: y)
        save, out = self._function(fn, build.check_saved)
        leaves, self.saved_tree = jax.tree.flatten(out)
        self.saved_form = Form.of(leaves, self.form.largest)
        shapes = save.result_shapes
        t = () if times is not None else (jax.ShapeDtypeStruct((), self.t_span[0].dtype),)
        self._add(
            Output(count, times is not None, AtTime(save)),
            save,
            t + shapes,
            () if times is None else (times,),
        )

    def add_dense(self, count):
        """Rows of whole steps."""
        degree = len(self.method.P[0])
        t = jax.ShapeDtypeStruct((), self.t_span[0].dtype)
        y = shapes(self.y0)
        columns = tuple(jax.ShapeDtypeStruct((degree, *x.shape), x.dtype) for x in self.y0)
        self._add(Output(count, False, None), None, (t, t, *y, *columns), ())

    def _add(self, output, save, shapes, query):
        self.outputs.append(output)
        self.program_outputs.append(ProgramOutput(len(self.method.NESTED), save, output.is_timed))
        self.shapes.append(shapes)
        self.queries.append(query)

    def plan(self, is_adaptive, **choices):
        outputs, shapes = tuple(self.program_outputs), tuple(self.shapes)
        uses_columns = tuple(output.uses_columns for output in outputs)
        most_lanes = MOST_LANES if self.form.is_apart else MOST_LANES_OF_ARRAYS
        scheme, attempt = scheme_and_attempt(
            self.method, self.f, self.y0, self.structure, self.n_lanes, is_adaptive, self.mass
        )
        program = Program(self.method, scheme, outputs, uses_columns, shapes, most_lanes=most_lanes)
        kept = (self.t_span[0], *self.y0)
        row_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in kept)
        room = capacity(row_bytes, self.n_lanes, self.room)
        return Plan(program, AtTime(self.f), attempt, tuple(self.outputs), room, is_adaptive, **choices)

    def status(self):
        """RUNNING, or why not."""
        return first_status(self.structure, self.f, self.t_span[0], tuple(self.theta), self.y0)

    def inputs(self):
        return Inputs(self.y0, (*self.t_span, *self.theta), tuple(self.queries))

    def solution(self, solved, t_eval):
        """The `Solution`, in the user's own structures."""
        y1, outputs = self._state(solved.y1), list(solved.outputs)
        dense = None
        if self.dense_steps is not None:
            t, t1, *leaves = outputs.pop()
            n = len(self.y0)
            dense = Dense(t, t1, self._state(leaves[:n]), self._state(leaves[n:]), solved.n_outputs[-1])
        if t_eval is not None:
            ts, ys = t_eval, self._saved(outputs[0])
            num_saved = solved.n_outputs[0]
        elif self.save_steps is not None:
            ts, ys = outputs[0][0], self._saved(outputs[0][1:])
            num_saved = solved.n_outputs[0]
        else:
            is_reached = solved.status == Status.SUCCESS
            ts, ys = self.t_span[1][None], self._saved_at_end(y1, is_reached)
            num_saved = is_reached.astype(jnp.int32)
        stats = Statistics(**solved.stats._asdict(), num_saved=num_saved)
        reached, slope = lax.stop_gradient((self._state(solved.y_reached), self._state(solved.f_reached)))
        return Solution(ts, ys, solved.t1, y1, reached, solved.status, stats, dense, slope)

    def _state(self, leaves):
        return jax.tree.unflatten(self.tree, self.form.together(leaves))

    def _saved(self, leaves):
        return jax.tree.unflatten(self.saved_tree, self.saved_form.together(leaves))

    def _saved_at_end(self, y1, is_reached):
        if self.save_fn is not None:
            time = self.t_span[1].astype(self.time.dtype)
            saved = jax.tree.map(jnp.asarray, self.save_fn(time, y1, *self.args))
            build.check_saved(saved)
            # A function of NaN may be a number, and not depend on it: then this does.
            nothing = sum(nan_unless(is_reached, 0 * leaf.real).sum() for leaf in jax.tree.leaves(y1))
            y1 = jax.tree.map(
                lambda x: nan_unless(is_reached, x) + jnp.asarray(nothing, real_dtype(x)), saved
            )
        return jax.tree.map(lambda x: x[None], y1)
