"""Models whose answers are exact: the best predictions for data whose law is known in closed form."""

from dataclasses import dataclass

import numpy as np

from tinydiff import Tensor
from tinydiff.arrays import Floats
from tinydiff.data.toys import GaussianMixture
from tinydiff.processes.gaussian import GaussianDiffusion
from tinydiff.processes.paths import join


@dataclass
class ExactDenoiser:
    """E[prediction | x_k] for a Gaussian mixture under Gaussian diffusion, by the mixture's score."""

    process: GaussianDiffusion
    law: GaussianMixture

    def __call__(self, x: Floats, t: Floats, **options: object) -> Tensor:
        out = np.empty_like(x)
        for k in np.unique(np.round(t * self.process.T).astype(int)):
            at = np.round(t * self.process.T).astype(int) == k
            a, s = np.sqrt(self.process.alpha_bar[k]), np.sqrt(1 - self.process.alpha_bar[k])
            flat = x[at].reshape(at.sum(), -1)
            score = self.law.score(flat, a, s)
            eps = -s * score
            x0 = (flat + s**2 * score) / a  # Tweedie's formula
            out[at] = join(x0, eps, a, s, self.process.predict).reshape(x[at].shape)
        return Tensor(out)


@dataclass
class GaussianFlow:
    """E[eps - x_0 | x_t] for data N(mean, covariance) in D dimensions, (L, F) = (D, 1); differentiable in x."""

    mean: Floats  # (D,)
    covariance: Floats  # (D, D)

    def __call__(self, x: Floats | Tensor, t: Floats, **options: object) -> Tensor:
        t0 = float(t[0])  # one time for the whole batch
        x = x if isinstance(x, Tensor) else Tensor(x)
        eye = np.eye(len(self.mean))
        of_xt = (1 - t0) ** 2 * self.covariance + t0**2 * eye
        gain = (t0 * eye - (1 - t0) * self.covariance) @ np.linalg.inv(of_xt)  # Cov(eps - x_0, x_t) Cov(x_t)^-1
        away = x.reshape(len(x.data), len(self.mean)) - (1 - t0) * self.mean
        return (away @ Tensor(gain.T) - self.mean).reshape(*x.shape)
