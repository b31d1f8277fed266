"""JAX's side: one jitted function per step."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cases

MASK = cases.VOCABULARY


def describe() -> str:
    """Version and device."""
    return f"JAX {jax.__version__}, jit, {jax.devices()[0].platform}"


def parameters(size: cases.Size):
    rng, d = np.random.default_rng(0), size.d_model

    def linear(i: int, o: int):
        return {"w": rng.uniform(-1, 1, (i, o)).astype(np.float32) / i**0.5, "b": np.zeros(o, np.float32)}

    def norm():
        return {"w": np.ones(d, np.float32), "b": np.zeros(d, np.float32)}

    def block():
        layers = {"qkv": linear(d, 3 * d), "out": linear(d, d), "up": linear(d, 4 * d), "down": linear(4 * d, d)}
        return layers | {"norm1": norm(), "norm2": norm()}

    tree = {
        "embed": 0.02 * rng.standard_normal((cases.VOCABULARY + 1, d)).astype(np.float32),
        "position": 0.02 * rng.standard_normal((size.length, d)).astype(np.float32),
        "blocks": [block() for _ in range(size.layers)],
        "norm": norm(),
        "head": linear(d, cases.VOCABULARY),
    }
    return jax.tree.map(jnp.asarray, tree)


def network(size: cases.Size, p, x):
    def linear(layer, h):
        return h @ layer["w"] + layer["b"]

    def norm(layer, h):
        return jax.nn.standardize(h, epsilon=1e-5) * layer["w"] + layer["b"]

    h = p["embed"][x] + p["position"]
    b, length, d = h.shape
    for block in p["blocks"]:
        qkv = linear(block["qkv"], norm(block["norm1"], h)).reshape(b, length, 3, size.heads, d // size.heads)
        attended = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        h = h + linear(block["out"], attended.reshape(b, length, d))
        h = h + linear(block["down"], jax.nn.gelu(linear(block["up"], norm(block["norm2"], h)), approximate=True))
    return linear(p["head"], norm(p["norm"], h))


def train_step(size: cases.Size):
    (b1, b2), x0 = cases.BETAS, jnp.asarray(np.random.default_rng(0).integers(0, MASK, (size.batch, size.length)))

    def loss(p, key):
        for_t, for_mask = jax.random.split(key)
        t = jnp.maximum((jnp.arange(size.batch) + jax.random.uniform(for_t)) / size.batch, 1e-3)[:, None]
        masked = jax.random.uniform(for_mask, x0.shape) < t
        log_p = jax.nn.log_softmax(network(size, p, jnp.where(masked, MASK, x0)))
        return (-jnp.take_along_axis(log_p, x0[..., None], axis=-1)[..., 0] * masked / t).mean()

    @jax.jit
    def step(state):
        p, m, v, n, key = state
        key, now = jax.random.split(key)
        g = jax.grad(loss)(p, now)
        norm = jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(g)))
        g = jax.tree.map(lambda x: x * jnp.minimum(1.0, cases.CLIP / norm), g)
        m = jax.tree.map(lambda a, x: b1 * a + (1 - b1) * x, m, g)
        v = jax.tree.map(lambda a, x: b2 * a + (1 - b2) * x * x, v, g)
        n = n + 1

        def update(w, a, c):
            change = a / (1 - b1**n) / (jnp.sqrt(c / (1 - b2**n)) + cases.EPS)
            return w - cases.LEARNING_RATE * (change + cases.WEIGHT_DECAY * w)

        return jax.tree.map(update, p, m, v), m, v, n, key

    p = parameters(size)
    zeros = jax.tree.map(jnp.zeros_like, p)
    state = [(p, zeros, zeros, jnp.zeros((), jnp.int32), jax.random.key(0))]

    def run() -> None:
        state[0] = jax.block_until_ready(step(state[0]))

    return run


def forward(batch: int):
    size = cases.SIZES["M"]
    p, x = parameters(size), jnp.asarray(np.random.default_rng(0).integers(0, MASK, (batch, size.length)))
    call = jax.jit(lambda p, x: network(size, p, x))
    return lambda: jax.block_until_ready(call(p, x))


CASES = {
    **{f"train step {name}": (lambda size=size: train_step(size)) for name, size in cases.SIZES.items()},
    **{f"forward M B{b}": (lambda b=b: forward(b)) for b in cases.SAMPLING_BATCHES},
}
