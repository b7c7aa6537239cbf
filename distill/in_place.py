"""Tunix's PeftTrainer with its weights updated where they lie.

Tunix gives only the optimiser away to its compiled step. The weights therefore come out of every step, and out of
every evaluation, beside those that went in: a second copy of the model at the peak, frozen weights under adapters
included, and a write of all of it. Here the step is given the model too, so that XLA may put what comes out in the
place of what went in; what does not change is not written at all.

Whoever keeps arrays of the model past a step must therefore copy them: JAX says that they have been deleted.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from flax import nnx
from tunix.sft.peft_trainer import PeftTrainer

TRAINING = ("model", "optimizer")  # arguments that a step updates where they lie
EVALUATION = ("model",)


class InPlaceTrainer(PeftTrainer):  # type: ignore[misc]
    """See the module."""

    _jitted_train_step_fn: Any
    _jitted_eval_step_fn: Any

    def jit_train_and_eval_step(self, *_: Any, **__: Any) -> Any:
        """The compiled step and evaluation, each a partial of its cached module; the same ones every time."""
        if self._jitted_train_step_fn is None:
            super().jit_train_and_eval_step()  # divides the optimiser among the devices; compiles nothing yet
            train = nnx.jit(self.create_train_step_fn(), donate_argnames=TRAINING)
            evaluate = nnx.jit(self.create_eval_step_fn(), donate_argnames=EVALUATION)
            self._jitted_train_step_fn = partial(nnx.cached_partial(train, self.model, self.optimizer))
            self._jitted_eval_step_fn = partial(nnx.cached_partial(evaluate, self.model))
        return self._jitted_train_step_fn, self._jitted_eval_step_fn
