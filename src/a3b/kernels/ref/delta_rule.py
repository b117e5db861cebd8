"""Twin of delta_rule: normalise, gate, then token by token."""

from __future__ import annotations

import numpy as np

L2_EPS = np.float32(1e-6)
ZERO = np.float32(0.0)


class DeltaRule:
    """The gated delta rule of `ops.bind_delta_rule`."""

    def __init__(self, A_log: np.ndarray, dt_bias: np.ndarray, Hk: int, Dk: int, Dv: int):
        Hv = len(A_log)
        self.Hk, self.r, self.Dk, self.Dv = Hk, Hv // Hk, Dk, Dv
        # beta = sigmoid(b) = exp(-softplus(-b)) and decay = exp(-e^A_log · softplus(a + dt_bias)): one form for both
        ones = np.ones(Hv, np.float32)
        self.sign = np.concatenate((-ones, ones))
        self.bias = np.concatenate((0 * ones, dt_bias)).astype(np.float32)
        self.rate = np.concatenate((-ones, -np.exp(A_log.astype(np.float64)))).astype(np.float32)
        self.qk_scale = np.repeat(np.array([Dk**-0.5, 1.0], np.float32), Hk)  # queries, then keys

    def gates(self, ba: np.ndarray) -> np.ndarray:
        """[T, b of Hv | a of Hv] -> [T, beta of Hv | decay of Hv]."""
        y = ba * self.sign
        y += self.bias
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            np.logaddexp(ZERO, y, out=y)
        y *= self.rate
        np.exp(y, out=y)
        return y

    def unit_qk(self, qk: np.ndarray) -> np.ndarray:
        """[T, 2Hk, Dk] -> rows of length one; queries also times Dk^-0.5."""
        root = np.einsum("thk,thk->th", qk, qk)
        root += L2_EPS
        np.sqrt(root, out=root)
        np.divide(self.qk_scale, root, out=root)
        unit: np.ndarray = qk * root[..., None]
        return unit

    def __call__(self, mixed: np.ndarray, ba: np.ndarray, state: np.ndarray) -> np.ndarray:
        T, Hk, r, Dk, Dv = len(mixed), self.Hk, self.r, self.Dk, self.Dv
        Hv, split = Hk * r, 2 * Hk * Dk
        gates = self.gates(ba)
        qk = self.unit_qk(mixed[:, :split].reshape(T, 2 * Hk, Dk))
        q, k = qk[:, :Hk].reshape(T, Hk, 1, 1, Dk), qk[:, Hk:].reshape(T, Hk, 1, 1, Dk)
        v = mixed[:, split:].reshape(T, Hk, r, 1, Dv)
        beta, decay = gates[:, :Hv].reshape(T, Hk, r, 1, 1), gates[:, Hv:].reshape(T, Hv, 1)
        M, flat = state.reshape(Hk, r, Dk, Dv), state.reshape(Hv, Dk * Dv)  # views: written in place
        out = np.empty((T, Hk, r, 1, Dv), np.float32)
        delta, update = np.empty((Hk, r, 1, Dv), np.float32), np.empty((Hk, r, Dk, Dv), np.float32)
        k_column = k.reshape(T, Hk, 1, Dk, 1)
        multiply, matmul, subtract, add = np.multiply, np.matmul, np.subtract, np.add
        for q_t, k_t, kc_t, v_t, beta_t, decay_t, o_t in zip(q, k, k_column, v, beta, decay, out, strict=True):
            multiply(flat, decay_t, out=flat)
            matmul(k_t, M, out=delta)
            subtract(v_t, delta, out=delta)
            multiply(delta, beta_t, out=delta)
            multiply(kc_t, delta, out=update)
            add(M, update, out=M)
            matmul(q_t, M, out=o_t)
        return out.reshape(T, Hv, Dv)
