"""Gaussian diffusion, flow matching and guidance outside the ledger: losses, samplers, labels, bad input."""

import itertools

import numpy as np
import pytest

from tests.identities.conftest import random_vector_model
from tests.identities.oracles import ExactDenoiser, GaussianFlow
from tinydiff import FlowMatching, GaussianDiffusion, Tensor, Transformer, check_grads, conditioned
from tinydiff.data.toys import GaussianMixture
from tinydiff.decoders import DDIM, ODE, Langevin
from tinydiff.processes import from_config
from tinydiff.processes.flow import uncross
from tinydiff.processes.gaussian import langevin_step

RNG = np.random.default_rng(0)
X0 = RNG.normal(size=(8, 3, 2))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def labelled(classes: int = 3) -> Transformer:
    model = random_vector_model(3, 2)
    made = Transformer(**(model.config | {"classes": classes}), rng=rng())
    made.params["class"].data *= 50
    return made


class Recorder:
    """Passes calls on to a model and remembers them."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.calls = model, []

    def __call__(self, x: np.ndarray, t: np.ndarray, **options: object) -> Tensor:
        self.calls.append((x, t))
        return self.model(x, t, **options)


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_ddpm_loss_is_the_mean_square_of_the_prediction(predict: str) -> None:
    """Noise, data and time of different examples mixed up, a step off by one, or the wrong target."""
    process, model = GaussianDiffusion(2, 50, "cosine", predict), Recorder(random_vector_model(3, 2))
    loss = process.loss(model, X0, rng(1)).item()
    ((xt, t),) = model.calls
    k = np.round(t * 50).astype(int)
    np.testing.assert_array_equal(k, 1 + np.floor((np.arange(8) + rng(1).random()) / 8 * 50))  # stratified over 1..50
    a, s = (np.sqrt(x)[:, None, None] for x in (process.alpha_bar[k], 1 - process.alpha_bar[k]))
    eps = (xt - a * X0) / s
    target = {"eps": eps, "x0": X0, "v": a * eps - s * X0}[predict]
    assert loss == pytest.approx(((model.model(xt, t).data - target) ** 2).mean(), rel=1e-9)
    assert abs(eps.mean()) < 0.5
    assert 0.5 < eps.std() < 1.5


@pytest.mark.parametrize("pairing", ["independent", "optimal"])
def test_flow_loss_is_the_mean_square_of_the_velocity(pairing: str) -> None:
    """Targets broadcast over the batch, or noise paired one way for x_t and another for the target."""
    process, model = FlowMatching(2, pairing), Recorder(random_vector_model(3, 2))
    loss = process.loss(model, X0, rng(1)).item()
    ((xt, t),) = model.calls
    np.testing.assert_array_equal(np.floor(t * 8), np.arange(8))
    noise = (xt - (1 - t[:, None, None]) * X0) / t[:, None, None]
    assert loss == pytest.approx(((model.model(xt, t).data - (noise - X0)) ** 2).mean(), rel=1e-9)
    drawn = rng(1)
    drawn.random()
    rows = drawn.standard_normal(X0.shape).reshape(8, -1)
    order = uncross(X0.reshape(8, -1), rows) if pairing == "optimal" else np.arange(8)
    np.testing.assert_allclose(noise.reshape(8, -1), rows[order], rtol=1e-9)


def test_uncross_is_near_the_best_of_all_pairings() -> None:
    """A permutation; no two paths better exchanged; within a tenth of the best, by enumerating all 7! pairings."""
    for seed in range(5):
        x, y = rng(seed).normal(size=(2, 7, 2))
        cost = ((x[:, None] - y) ** 2).sum(axis=-1)
        p = uncross(x, y, sweeps=50)
        assert sorted(p) == list(range(7))
        found = cost[np.arange(7), p].sum()
        best = min(cost[np.arange(7), list(q)].sum() for q in itertools.permutations(range(7)))
        assert best - 1e-12 <= found <= 1.1 * best
        for i, j in itertools.combinations(range(7), 2):
            assert cost[i, p[i]] + cost[j, p[j]] <= cost[i, p[j]] + cost[j, p[i]] + 1e-9


def test_corrupt_has_the_scale_of_its_time() -> None:
    """t = 0 is clean and 1 is noise in both processes, each example at its own time."""
    x0 = np.full((4000, 1, 1), 2.0)
    for process in (GaussianDiffusion(1), FlowMatching(1)):
        np.testing.assert_array_equal(process.corrupt(x0, np.zeros(4000), rng()), x0)
        xt = process.corrupt(x0, np.ones(4000), rng()).ravel()
        assert abs(xt.mean()) < 4.5 / np.sqrt(4000) + 0.02  # two-sided at 4.5 standard errors
        assert abs(xt.std() - 1) < 4.5 / np.sqrt(2 * 4000)
    t = np.repeat([0.0, 1.0], 2000)
    xt = FlowMatching(1).corrupt(x0, t, rng())
    assert (xt[:2000] == 2).all()
    assert xt[2000:].std() > 0.9


# --- samplers ---------------------------------------------------------------------------------------------------------

LAW = GaussianMixture(np.array([0.3, 0.7]), np.array([[-1.0], [0.8]]), np.array([0.2, 0.3]))


def moments_agree(x: np.ndarray, tolerance: float) -> bool:
    """Share of the left component, and mean and variance, within 4.5 standard errors plus `tolerance`."""
    reference = LAW.sample(400_000, rng(99)).ravel()
    checks = [(f(x), f(reference)) for f in (lambda z: z < -0.2, lambda z: z, lambda z: z**2)]
    return all(abs(a.mean() - b.mean()) < 4.5 * a.std() / np.sqrt(len(a)) + tolerance for a, b in checks)


@pytest.mark.parametrize("decoder", [DDIM(), DDIM(eta=0.0), DDIM(eta=0.5), DDIM(60), DDIM(60, eta=0.0)])
def test_ddpm_samples_have_the_law_of_the_exact_denoiser(decoder: DDIM) -> None:
    """A mixture, from noise: two-sided at 4.5 standard errors, seed fixed, plus 6 / steps for their finite number."""
    process = GaussianDiffusion(1, 300)
    *_, last = process.sample(ExactDenoiser(process, LAW), 1, 10_000, decoder=decoder, rng=rng())
    assert moments_agree(last.state.ravel(), 6 / (decoder.steps or 300))


def test_langevin_steps_lead_to_the_law_of_their_score() -> None:
    """From N(0, 1), far from it, in 400 steps: mean and deviation at 4.5 standard errors, plus 0.02 for their size."""
    x, noise = rng(1).standard_normal((4000, 1, 1)), rng(7)
    law = GaussianMixture(np.ones(1), np.array([[0.5]]), np.array([0.3]))
    for _ in range(400):
        x = langevin_step(x, law.score(x[:, 0])[:, :, None], 0.3, rng=noise)
    assert abs(x.mean() - 0.5) < 4.5 * 0.3 / np.sqrt(4000) + 0.02
    assert abs(x.std() - 0.3) < 4.5 * 0.3 / np.sqrt(8000) + 0.02


def test_langevin_correction_repairs_coarse_sampling() -> None:
    """Four steps of DDIM leave the components too narrow or misplaced; corrections along the score help."""
    process = GaussianDiffusion(1, 300)
    model, reference = ExactDenoiser(process, LAW), np.sort(LAW.sample(5000, rng(5)).ravel())

    def distance(corrector: Langevin | None) -> float:
        *_, last = process.sample(model, 1, 5000, decoder=DDIM(5, eta=0.0, corrector=corrector), rng=rng())
        return float(np.abs(np.sort(last.state.ravel()) - reference).mean())

    assert distance(Langevin(10)) < 0.8 * distance(None)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_a_langevin_step_has_the_size_of_its_paper(alpha: float) -> None:
    """x + d g + sqrt(2 d) z with d = 2 alpha (r |z| / |g|)^2 (Song et al. 2021, algorithm 5), written out."""
    x, g, z = X0, 3 * X0 - 1, rng(5).standard_normal(X0.shape)
    lengths = [np.mean([np.linalg.norm(row) for row in a]) for a in (z, g)]
    d = 2 * alpha * (0.2 * lengths[0] / lengths[1]) ** 2
    np.testing.assert_allclose(langevin_step(x, g, 0.2, rng(5), alpha), x + d * g + np.sqrt(2 * d) * z, rtol=1e-12)


def test_correction_steps_are_told_how_much_their_step_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """alpha_j = 1 - beta_j of the step j just reached, and the score of the guess within the data's range."""
    process, told = GaussianDiffusion(2, 50, "cosine", clip=0.5), []

    def recorder(x: np.ndarray, score: np.ndarray, snr: float, rng: object, alpha: float) -> np.ndarray:
        told.append((x, score, snr, alpha))
        return x

    monkeypatch.setattr("tinydiff.processes.gaussian.langevin_step", recorder)
    model, corrector = random_vector_model(3, 2), Langevin(2, snr=0.3)
    list(process.sample(model, 3, 5, decoder=DDIM(5, corrector=corrector), rng=rng()))
    steps = [40, 40, 30, 30, 20, 20, 10, 10]
    np.testing.assert_allclose([alpha for *_, alpha in told], 1 - process.beta[steps], rtol=1e-12)
    assert {snr for _, _, snr, _ in told} == {0.3}
    for (x, score, _, _), j in zip(told, steps, strict=True):
        a, s = np.sqrt(process.alpha_bar[j]), np.sqrt(1 - process.alpha_bar[j])
        assert (np.abs((x + s**2 * score) / a) <= 0.5 + 1e-9).all()  # Tweedie: the x_0 that this score means


class Off:
    """A network whose every prediction is wrong by the same amount: 0.3."""

    def __call__(self, x: np.ndarray, t: np.ndarray, **options: object) -> Tensor:
        return Tensor(np.full_like(x, 0.3))


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_sampling_stays_within_the_range_of_the_data(predict: str, schedule: str, eta: float) -> None:
    """A small error of eps is divided by sqrt(alpha_bar_T), down to 5e-5: without a clip points fly off."""
    for clip in (0.2, 2.0):
        process = GaussianDiffusion(1, 1000, schedule, predict, clip=clip)
        frames = list(process.sample(Off(), 2, 50, decoder=DDIM(20, eta), rng=rng()))
        assert all(np.abs(frame.denoised).max() <= clip for frame in frames)
        assert all(np.abs(frame.state).max() < clip + 6 for frame in frames)  # six deviations of the noise
        assert np.abs(frames[-1].state).max() <= clip
        if predict == "eps":
            assert np.abs(frames[-1].denoised).max() == clip
            free = GaussianDiffusion(1, 1000, schedule, predict, clip=None)
            *_, last = free.sample(Off(), 2, 50, decoder=DDIM(20, eta), rng=rng())
            assert np.abs(last.state).max() > 3 * clip


def test_a_clipped_guess_still_explains_the_state() -> None:
    """a x_0 + s eps = x_k, with x_0 the nearest that is allowed: eps is not left as it was."""
    process, model, k = GaussianDiffusion(2, 50, "cosine"), random_vector_model(3, 2), np.arange(43, 51)
    free, _ = process.guess(model, X0, k)
    x0, eps = process.guess(model, X0, k, clip=0.7)
    assert (np.abs(free) > 0.7).any()
    np.testing.assert_array_equal(x0, np.clip(free, -0.7, 0.7))
    a, s = process.scales(k)
    np.testing.assert_allclose(a * x0 + s * eps, X0, rtol=1e-9, atol=1e-12)


def test_the_clip_changes_neither_loss_nor_bound() -> None:
    """Those are of the network's own guesses, as in the ledger."""
    model, small = random_vector_model(3, 2), 0.01 * X0
    free, tight = (GaussianDiffusion(2, 50, clip=clip) for clip in (None, 0.1))
    assert free.loss(model, small, rng()).item() == tight.loss(model, small, rng()).item()
    np.testing.assert_array_equal(free.bound(model, small, rng()), tight.bound(model, small, rng()))
    assert [from_config(process.config).clip for process in (free, tight)] == [None, 0.1]
    old = {name: value for name, value in tight.config.items() if name != "clip"}
    assert from_config(old).clip == GaussianDiffusion(2).clip  # a run from before there was one


@pytest.mark.parametrize(("process", "decoder"), [(GaussianDiffusion(2, 40), DDIM(8)), (FlowMatching(2), ODE(8))])
def test_frames_carry_what_they_promise(process: GaussianDiffusion | FlowMatching, decoder: DDIM | ODE) -> None:
    """Times out of order, a frame too few, or states that later steps change."""
    frames = list(process.sample(random_vector_model(3, 2), 3, 5, decoder=decoder, rng=rng()))
    assert [frame.step for frame in frames] == list(range(9))
    assert {frame.steps for frame in frames} == {8}
    np.testing.assert_allclose([frame.t for frame in frames], np.arange(8, -1, -1) / 8)
    assert all(frame.state.shape == frame.denoised.shape == (5, 3, 2) for frame in frames)
    assert len({frame.state.tobytes() for frame in frames}) == 9
    np.testing.assert_array_equal(frames[0].state, rng().standard_normal((5, 3, 2)))
    again = list(process.sample(random_vector_model(3, 2), 3, 5, decoder=decoder, rng=rng()))
    np.testing.assert_array_equal(frames[-1].state, again[-1].state)


# --- labels and derivatives of the model ------------------------------------------------------------------------------


def test_guidance_goes_beyond_the_conditional_answer() -> None:
    """(1 + w) answer(x, label) - w answer(x, no class), also after converting the prediction to x_0."""
    model, t = labelled(), np.full(8, 0.5)
    label = np.arange(8) % 3
    given, free = model(X0, t, label=label).data, model(X0, t, label=np.full(8, 3)).data
    assert not np.allclose(given, free)
    np.testing.assert_array_equal(model(X0, t).data, free)  # no label is the class after the last
    for scale in (0.0, 1.5, -1.0):
        np.testing.assert_allclose(
            conditioned(model, label, scale)(X0, t).data, (1 + scale) * given - scale * free, rtol=1e-12, atol=1e-12
        )
    assert conditioned(model, None) is model


def test_class_and_time_gradients() -> None:
    """The class table and the input itself, against central differences."""
    model = labelled()
    model.params = {name: Tensor(p.data, requires_grad=True) for name, p in model.params.items()}
    t, label = np.array([0.2, 0.7]), np.array([2, 0])

    def run(table: Tensor, x: Tensor) -> Tensor:
        model.params["class"] = table
        return model(x, t, label=label)

    check_grads(run, model.params["class"].data, X0[:2], tolerance=1e-6)


def test_gradient_of_the_input_leaves_the_parameters_alone() -> None:
    """Likelihoods are estimated in the middle of training: what they add to a parameter's gradient is trained on."""
    process, model = FlowMatching(2), random_vector_model(3, 2)
    process.nll(model, X0, steps=1)
    process.bound(model, X0, rng())
    assert all(p.grad is None for p in model.params.values())


# --- bad input --------------------------------------------------------------------------------------------------------

NAN = np.where(np.arange(48).reshape(8, 3, 2) == 7, np.nan, X0)
DDPM, FLOW, MODEL = GaussianDiffusion(2, 50), FlowMatching(2), random_vector_model(3, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: GaussianDiffusion(0), "features is 0"),
        (lambda: GaussianDiffusion(1, 0), "T is 0"),
        (lambda: GaussianDiffusion(1, 10), r"a beta of 1\.\d+; expected 0 < beta < 1"),
        (
            lambda: GaussianDiffusion(1, schedule="sigmoid"),
            "schedule is 'sigmoid'; expected linear, cosine or the betas",
        ),
        (lambda: GaussianDiffusion(1, 3, [0.1, 0.1]), r"schedule has shape \(2,\); expected \(3,\)"),
        (lambda: GaussianDiffusion(1, 3, [0.1, 0.1, 0.1]), r"ends at alpha_bar = 0.729: .* expected at most 0.01"),
        (lambda: GaussianDiffusion(1, predict="velocity"), "predict is 'velocity'"),
        (lambda: GaussianDiffusion(1, clip=0.0), "clip is 0.0; expected a positive number"),
        (lambda: GaussianDiffusion(1, clip=10**400), "clip is 10*; expected a positive number"),
        (lambda: GaussianDiffusion(2, 50, clip=0.5).loss(MODEL, -X0, rng()), r"x0 contains 2\.\d+, but clip is 0\.5: "),
        (lambda: DDPM.loss(MODEL, NAN, rng()), "x0 contains nan; every number of it must be finite"),
        (lambda: DDPM.loss(MODEL, X0[0], rng()), r"x0 has shape \(3, 2\)"),
        (lambda: DDPM.bound(MODEL, X0[:, :, :1], rng()), r"expected \(B, L, 2\) numbers"),
        (lambda: DDPM.corrupt(X0, np.full(8, 1.2), rng()), r"expected \(8,\) times in \[0, 1\]"),
        (lambda: DDPM.sample(MODEL, 3, decoder=DDIM(51), rng=rng()), "steps is 51; expected 1 <= steps <= 50"),
        (lambda: DDIM(eta=-0.1), "eta is -0.1"),
        (lambda: DDIM(eta=np.nan), "eta is nan"),
        (lambda: Langevin(-1), "steps is -1"),
        (lambda: DDPM.sample(MODEL, 0, rng=rng()), "length is 0"),
        (lambda: list(DDPM.sample(lambda x, t: Tensor(x * np.nan), 3, rng=rng())), "output contains NaN"),
        (lambda: list(FLOW.sample(lambda x, t: Tensor(x * np.nan), 3, rng=rng())), "output contains NaN"),
        (lambda: FlowMatching(2, "best"), "pairing is 'best'"),
        (lambda: FLOW.loss(MODEL, NAN, rng()), "x0 contains nan"),
        (lambda: FLOW.corrupt(X0, np.zeros(3), rng()), r"expected \(8,\) times"),
        (lambda: FLOW.nll(MODEL, X0, steps=0), "steps is 0"),
        (lambda: FlowMatching(2, "optimal").score(MODEL, X0, 0.5), "pairing is 'optimal', .* train with 'independent'"),
        (lambda: FLOW.score(MODEL, X0, 0.0), "t is 0.0; expected 0 < t <= 1"),
        (lambda: labelled()(X0, np.zeros(8), label=np.full(8, 4)), r"label contains 4..4, .* 0..2 and 3, no class"),
        (lambda: labelled()(X0, np.zeros(8), label=np.zeros(8)), "dtype float64"),
        (lambda: labelled()(X0, np.zeros(8), label=np.zeros(7, int)), r"expected \(8,\) integers"),
        (lambda: MODEL(X0, np.zeros(8), label=np.zeros(8, int)), "but this model has none"),
        (lambda: labelled(-1), "classes is -1"),
        (lambda: conditioned(MODEL, None, 1.0), "there is no label to follow"),
        (lambda: conditioned(MODEL, np.zeros(8, int), np.inf), "cfg_scale is inf"),
    ],
)
def test_bad_input(call, words: str) -> None:
    """Each names the argument, the value and what would be right."""
    with pytest.raises(ValueError, match=words):
        call()


def test_flow_oracle_is_the_conditional_mean() -> None:
    """The oracle of G9 itself: E[eps - x_0 | x_t] for Gaussian data by regression on draws, at 4.5 standard errors."""
    mean, covariance, t, n = np.array([0.6, -0.4]), np.array([[0.9, 0.3], [0.3, 0.7]]), 0.4, 200_000
    x0 = rng(1).multivariate_normal(mean, covariance, n)
    eps = rng(2).standard_normal((n, 2))
    xt = (1 - t) * x0 + t * eps
    predicted = GaussianFlow(mean, covariance)(xt[:, :, None], np.full(n, t)).data[:, :, 0]
    residual = eps - x0 - predicted
    for test in (np.ones(n), xt[:, 0], xt[:, 1]):  # a conditional mean leaves nothing that x_t could explain
        products = residual * test[:, None]
        assert (np.abs(products.mean(axis=0)) < 4.5 * products.std(axis=0) / np.sqrt(n)).all()
