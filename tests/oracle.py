"""The operators in float64, tap by tap, pixel by pixel rules in numpy: shares nothing with the library."""

import numpy as np

G = {
    "charbonnier": lambda a: (1 + a) ** -0.5,
    "exponential": lambda a: np.exp(-a),
    "rational": lambda a: 1 / (1 + a),
    "constant": lambda a: np.ones_like(a),
}
NUMPY_PAD = {
    "zeros": "constant",
    "zero_flux": "constant",
    "replicate": "edge",
    "reflect": "reflect",
    "circular": "wrap",
}


def sdc(u, v, K, b=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, mode="zeros", g="charbonnier", k=1.0,
        similarity="channel"):  # fmt: skip
    """y[n,o,p] = b[o] + sum K[o,c,tap] g(v_q - v_p) (u_q - u_p) over channels and taps."""
    u, v, K = (np.asarray(x, dtype=np.float64) for x in (u, v, K))
    k = np.asarray(k, dtype=np.float64).reshape(1, -1, 1, 1)
    edges = ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2)
    inside = np.pad(np.ones((1, 1, *u.shape[2:])), edges, mode=NUMPY_PAD[mode])
    u, v = (np.pad(x, edges, mode=NUMPY_PAD[mode]) for x in (u, v))
    O, Cg, kh, kw = K.shape
    Ho = (u.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    Wo = (u.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1

    def at(x, i, j):
        r, c = i * dilation[0], j * dilation[1]
        return x[:, :, r : r + stride[0] * (Ho - 1) + 1 : stride[0], c : c + stride[1] * (Wo - 1) + 1 : stride[1]]

    y = np.zeros((u.shape[0], O, Ho, Wo)) + (0 if b is None else np.asarray(b, dtype=np.float64).reshape(1, -1, 1, 1))
    for i, j in np.ndindex(kh, kw):
        d = at(v, i, j) - at(v, kh // 2, kw // 2)
        a = (d / k) ** 2 if similarity == "channel" else (d**2).sum(1, keepdims=True) / k**2
        flow = G[g](a) * (at(u, i, j) - at(u, kh // 2, kw // 2))
        if mode == "zero_flux":
            flow = flow * at(inside, i, j) * at(inside, kh // 2, kw // 2)
        for o in range(O):
            c = slice(o // (O // groups) * Cg, o // (O // groups) * Cg + Cg)
            y[:, o] += np.einsum("c,nchw->nhw", K[o, :, i, j], flow[:, c])
    return y
