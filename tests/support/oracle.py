"""The difference convolution in float64, tap by tap, in numpy: shares nothing with the library."""

import numpy as np

G = {
    "charbonnier": lambda a: (1 + a) ** -0.5,
    "exponential": lambda a: np.exp(-a),
    "rational": lambda a: 1 / (1 + a),
    "constant": lambda a: np.ones_like(a),
}
PAD = {"zeros": "constant", "zero_flux": "constant", "replicate": "edge", "reflect": "reflect", "circular": "wrap"}
ONE = (1, 1)


def sdc(u, v, K, b=None, stride=ONE, padding=(0, 0), dilation=ONE, groups=1, mode="zeros", g="charbonnier", k=1.0, similarity="channel"):  # fmt: skip  # noqa: E501
    """y[n,o,p] = b[o] + sum K[o,c,tap] g(v_q - v_p) (u_q - u_p) over channels and taps."""
    u, v, K, k = (np.asarray(x, dtype=np.float64) for x in (u, v, K, k))
    edges = ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2)
    u, v, inside = (np.pad(x, edges, mode=PAD[mode]) for x in (u, v, np.ones((1, 1, *u.shape[2:]))))
    O, Cg, kh, kw = K.shape
    Ho = (u.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    Wo = (u.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1

    def at(x, i, j):
        r, c = i * dilation[0], j * dilation[1]
        return x[:, :, r : r + stride[0] * (Ho - 1) + 1 : stride[0], c : c + stride[1] * (Wo - 1) + 1 : stride[1]]

    y = np.zeros((u.shape[0], O, Ho, Wo)) + (0 if b is None else np.asarray(b, dtype=np.float64).reshape(1, -1, 1, 1))
    for i, j in np.ndindex(kh, kw):
        d = (at(v, i, j) - at(v, kh // 2, kw // 2)) / k.reshape(1, -1, 1, 1)
        flow = G[g](d**2 if similarity == "channel" else (d**2).sum(1, keepdims=True))
        flow = flow * (at(u, i, j) - at(u, kh // 2, kw // 2))
        if mode == "zero_flux":
            flow = flow * at(inside, i, j) * at(inside, kh // 2, kw // 2)
        for o in range(O):
            c = slice(o // (O // groups) * Cg, o // (O // groups) * Cg + Cg)
            y[:, o] += np.einsum("c,nchw->nhw", K[o, :, i, j], flow[:, c])
    return y
