"""Fast implementations of plain formulas: Gaussians, dropout, softmax, pair cross entropy."""

import math
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx

_LITERAL_PI = 3.14159  # the published Gaussians use this value of pi


def pair_vectors(positions: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n n 3"]:
    """Compute the vectors p_j - p_i in Å."""
    return positions[:, None, :, :] - positions[:, :, None, :]


class Gaussians(torch.autograd.Function):
    """g_k(v) = exp(-o_k^2 / 2) / (sqrt(2 pi) s_k) with o_k = (v - mu_k) / s_k.

    To save memory, g is the only [b n n k] tensor that is kept; o is computed again for the
    gradients dg/dv = -g o / s, dg/dmu = g o / s and dg/ds = g (o^2 - 1) / s.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        value: Float[Tensor, "b n n"],
        centres: Float[Tensor, " k"],
        width: Float[Tensor, " k"],
    ) -> Float[Tensor, "b n n k"]:
        """Evaluate all Gaussians at all values."""
        offset = (value[..., None] - centres).div_(width)
        log_height = -torch.log(math.sqrt(2 * _LITERAL_PI) * width)
        gaussians = torch.addcmul(log_height, offset, offset, value=-0.5).exp_()
        ctx.save_for_backward(value, centres, width, gaussians)
        return gaussians

    @staticmethod
    def backward(
        ctx: BackwardCFunction, *outer: Float[Tensor, "b n n k"]
    ) -> tuple[Float[Tensor, "b n n"], Float[Tensor, " k"], Float[Tensor, " k"]]:
        """Compute the gradients of values, centres and widths."""
        value, centres, width, gaussians = list(ctx.saved_tensors)
        offset = (value[..., None] - centres).div_(width)
        slope = outer[0] * gaussians
        to_height = slope.sum((0, 1, 2))
        slope *= offset
        to_value, to_centres = -(slope @ width.reciprocal()), slope.sum((0, 1, 2)) / width
        to_width = (slope.mul_(offset).sum((0, 1, 2)) - to_height) / width
        return to_value, to_centres, to_width


def dropout(values: Float[Tensor, "*s"], rate: float) -> Float[Tensor, "*s"]:
    """Set values to 0 with probability `rate`, and scale the others by 1 / (1 - rate).

    On a CPU the random numbers take most of the time; `rand` takes half as long as `bernoulli_`.
    """
    if values.is_cuda or rate == 0:
        return F.dropout(values, rate)
    return values * uniform_like(values).ge_(rate).mul_(1 / (1 - rate))


def uniform_like(values: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Draw uniform numbers in [0, 1), see `drawing_from`."""
    return torch.empty_like(values).uniform_(generator=_generator_of(values))


_drawn_from = threading.local()


@contextmanager
def drawing_from(generator: torch.Generator | None) -> Generator[None, None, None]:
    """Draw the random numbers of dropout from a generator, in this thread.

    Without it they come from the global generator of torch, which all threads share. On a GPU, and
    in a compiled graph, they always do.
    """
    before = getattr(_drawn_from, "generator", None)
    _drawn_from.generator = generator
    try:
        yield
    finally:
        _drawn_from.generator = before


def _generator_of(values: Tensor) -> torch.Generator | None:
    if values.is_cuda or torch.compiler.is_compiling():
        return None
    return getattr(_drawn_from, "generator", None)


def replaying() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Make contexts for a forward pass and its repetition, which draws the same numbers.

    This is a `context_fn` of `torch.utils.checkpoint.checkpoint`, which itself repeats the numbers
    of the global generator only.
    """
    states: list[Tensor] = []

    @contextmanager
    def first() -> Generator[None, None, None]:
        generator = getattr(_drawn_from, "generator", None)
        if generator is not None:
            states.append(generator.get_state())
        yield

    @contextmanager
    def again() -> Generator[None, None, None]:
        generator = getattr(_drawn_from, "generator", None)
        if generator is None:
            yield
            return
        after = generator.get_state()
        generator.set_state(states[0])
        try:
            yield
        finally:
            generator.set_state(after)

    return first(), again()


_global_generator = threading.RLock()


@contextmanager
def seeded(seed: int) -> Generator[torch.Generator, None, None]:
    """Initialise weights from a seed; the global generator of torch keeps its state.

    Initialisation in torch draws from the global generator, so one thread at a time may do it.

    Yields:
        A generator, which after the block continues where the initialisation ended.
    """
    generator = torch.Generator()
    with _global_generator, torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield generator
        generator.set_state(torch.random.get_rng_state())


class BernoulliDropout(nn.Dropout):
    """Dropout as torch computes it on a CPU, with the generator of `drawing_from`."""

    def forward(self, input: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Apply it."""
        generator = _generator_of(input)
        if generator is None or not self.training or self.p == 0:
            return super().forward(input)
        kept = torch.empty_like(input).bernoulli_(1 - self.p, generator=generator)
        return input * kept.div_(1 - self.p)


class Dropout(nn.Dropout):
    """`dropout` in training."""

    def forward(self, input: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Apply it."""
        return dropout(input, self.p if self.training else 0.0)


def softmax(logits: Float[Tensor, "*s t"]) -> Float[Tensor, "*s t"]:
    """Softmax over the last axis, padded to 16 columns, below which torch is slow on a CPU."""
    n = logits.shape[-1]
    if torch.compiler.is_compiling() or n >= 16:  # a compiled graph must accept all sizes
        return logits.softmax(-1)
    return F.pad(logits, (0, 16 - n), value=-math.inf).softmax(-1)[..., :n]


IGNORED = -100
_LOGITS_AT_ONCE = 2**18
"""Number of logits in memory at a time: 1 MiB, which fits into a CPU cache."""


class PairCrossEntropy(torch.autograd.Function):
    """Sum of the cross entropies of the logits r_i W c_j + b, with bounded memory.

    Atoms i are processed in pieces. The gradients of a piece (softmax minus the true class, through
    the same products) are computed together with its loss, so its logits need not be kept.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        rows: Float[Tensor, "b n r"],
        columns: Float[Tensor, "b n r"],
        weight: Float[Tensor, "c rr"],
        bias: Float[Tensor, " c"],
        classes: Int64[Tensor, "b n n k"],
    ) -> Float[Tensor, ""]:
        """Sum the cross entropy over all pairs whose class is not `IGNORED`."""
        _, n, rank = rows.shape
        rows, classes = rows.flatten(0, 1), classes.flatten(0, 1)
        # [r (r c)]: the row side is contracted first, so that one product gives the logits of an i
        turned = weight.view(-1, rank, rank).permute(1, 2, 0).flatten(1)
        total = bias.new_zeros(())
        to_rows, to_columns = torch.zeros_like(rows), torch.zeros_like(columns)
        to_turned, to_bias = torch.zeros_like(turned), torch.zeros_like(bias)
        scored = (classes != IGNORED).flatten(1).any(1).nonzero()[:, 0]
        for piece in scored.split(max(1, _LOGITS_AT_ONCE // (n * len(bias)))):
            row, column, true = rows[piece], columns[piece // n], classes[piece]
            half = (row @ turned).unflatten(-1, (rank, -1))
            logits = torch.baddbmm(bias, column, half)  # [i n c]
            is_ignored, true = true == IGNORED, true.clamp(min=0)[..., None]
            # Softmax is written out, because torch's is slow on a CPU for fewer than 16 classes.
            logits = logits.unflatten(-1, (true.shape[-2], -1))
            logits -= logits.amax(-1, keepdim=True)
            chosen = logits.gather(-1, true)
            error = logits.exp_()
            weight_of_all = error.sum(-1, keepdim=True)
            total += (weight_of_all.log() - chosen)[..., 0].masked_fill_(is_ignored, 0).sum()
            # The gradient of the logits: the probability of each class, minus 1 for the true one.
            error = error.div_(weight_of_all).scatter_(-1, true, -1.0, reduce="add")
            error = error.masked_fill_(is_ignored[..., None], 0).flatten(2)
            to_half = (column.transpose(1, 2) @ error).flatten(1)
            to_rows[piece] = to_half @ turned.T
            to_columns.index_add_(0, piece // n, error @ half.transpose(1, 2))
            to_turned.addmm_(row.T, to_half)
            to_bias += error.sum((0, 1))
        to_weight = to_turned.view(rank, rank, -1).permute(2, 0, 1).reshape_as(weight)
        ctx.save_for_backward(to_rows.view_as(columns), to_columns, to_weight, to_bias)
        return total

    @staticmethod
    def backward(ctx: BackwardCFunction, *outer: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        """Scale the gradients that `forward` has computed."""
        return *(outer[0] * gradient for gradient in ctx.saved_tensors), None
