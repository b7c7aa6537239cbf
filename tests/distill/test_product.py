import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.gemma.product import product

AXES = {"B": 2, "T": 3, "S": 3, "D": 4, "F": 8, "N": 3, "H": 5, "C": 2, "K": 1, "r": 2}


def drawn(axes: str, dtype: str = "float32") -> jax.Array:
    shape = [AXES[c] for c in axes]
    return jnp.asarray(np.random.default_rng(len(axes)).normal(size=shape), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "axes",
    [
        "BTD,DF->BTF",
        "BTF,FD->BTD",
        "BTD,NDH->BTNH",
        "BSD,CKDH->CBSKH",
        "BTNH,NHD->BTD",
        "CBTr,CrKH->CBTKH",
        "BTr,rNH->BTNH",
    ],
)
def test_values_and_gradients_are_those_of_einsum(axes: str, dtype: str) -> None:
    sides, _, made = axes.partition("->")
    taken, _, matrix = sides.partition(",")
    x, w, weight = drawn(taken, dtype), drawn(matrix, dtype), drawn(made)

    def loss(multiply, x, w):
        return jnp.sum(jnp.sin(multiply(axes, x, w).astype(jnp.float32)) * weight)

    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda x, w, multiply=multiply: loss(multiply, x, w), (0, 1)))(x, w)
        for multiply in (product, jnp.einsum)
    )
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(
            np.asarray(one, np.float32),
            np.asarray(other, np.float32),
            atol=1e-5 if dtype == "float32" else 0.1,
        )


@pytest.mark.parametrize("axes", ["BTD,DF->BTF", "BTF,FD->BTD", "BTr,rF->BTF", "BTF,Fr->BTr"])
def test_the_narrow_side_of_a_gradient_comes_first(axes: str) -> None:
    sides, _, _ = axes.partition("->")
    taken, _, matrix = sides.partition(",")
    traced = jax.make_jaxpr(jax.grad(lambda w, x: jnp.sum(product(axes, x, w) ** 2)))(
        drawn(matrix), drawn(taken)
    )
    last = [e for e in traced.jaxpr.eqns if e.primitive.name == "dot_general"][-1]
    first, second = (variable.aval.size for variable in last.invars)
    assert first < second
