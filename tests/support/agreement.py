"""How results are compared that stand for one another."""

from torch import Tensor, nn

from sdn_triton.outputs import memory_format


def assert_like(result: Tensor, like: Tensor) -> None:
    """Of one dtype and memory format, and without gaps."""
    assert result.dtype == like.dtype
    assert memory_format(result) == memory_format(like)
    assert result.is_contiguous(memory_format=memory_format(like))


def terms_of_biases(model: nn.Module) -> dict[str, float]:
    """By the name of each bias how large what its gradient sums up is, once a backward pass has gone through.

    As the root of the sum of its squares, of the channel with the largest. In front of a normalisation the gradient
    itself is zero but for rounding, which depends on the processor.
    """
    terms: dict[str, float] = {}

    def note(name: str, gradient: Tensor) -> None:
        terms[name] = gradient.square().sum((0, 2, 3)).max().sqrt().item()

    for name, module in model.named_modules():
        if getattr(module, "bias", None) is not None:
            module.register_full_backward_hook(lambda _, __, grads, name=name: note(f"{name}.bias", grads[0]))
    return terms
