"""Pair states: one vector per ordered pair of atoms that the layers of the encoder update.

Atoms that a symmetry of the molecule exchanges have equal vectors. A head that reads only two
atoms' vectors must give all their pairs one answer: inside benzene no path and no distance can be
told from another. A pair state starts from the blended view of its own pair, so it can.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class PairUpdate(nn.Module):
    """One layer's update of the pair states, and the attention bias read from them.

    z_ij <- z_ij + A s_ij + O norm(sum over k of (L z_ik) * (R z_kj) / sqrt(n)), where s_ij are the
    attention scores q_i . k_j / sqrt(d / h) of all heads.

    Reference:
        The scores as in Uni-Mol's pair representation (Zhou et al., ICLR 2023); the sum over third
        atoms as in the triangle multiplication of AlphaFold 2 (Jumper et al., Nature 596, 583,
        2021), here without gates.
    """

    def __init__(self, pair_width: int, n_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(pair_width)
        self.bias = nn.Linear(pair_width, n_heads, bias=False)
        self.sides = nn.Linear(pair_width, 2 * pair_width)
        self.triangle_norm = nn.LayerNorm(pair_width)
        self.triangle = nn.Linear(pair_width, pair_width)
        self.scores = nn.Linear(n_heads, pair_width, bias=False)

    def attention_bias(self, pairs: Float[Tensor, "b n n c"]) -> Float[Tensor, "b h t t"]:
        """Read the bias of every head; the virtual node, in front, gets none."""
        bias = self.bias(self.norm(pairs)).permute(0, 3, 1, 2)
        return F.pad(bias, (1, 0, 1, 0))

    def forward(
        self,
        pairs: Float[Tensor, "b n n c"],
        scores: Float[Tensor, "b h n n"],
        is_pair: Bool[Tensor, "b n n"],
    ) -> Float[Tensor, "b n n c"]:
        """Update the states.

        Args:
            pairs: the states before this layer.
            scores: attention scores of this layer without their bias.
            is_pair: pairs of real atoms, the diagonal included.
        """
        sides = self.sides(self.norm(pairs)) * is_pair[..., None]
        left, right = sides.permute(0, 3, 1, 2).chunk(2, 1)  # [b c n n]
        n_atoms = is_pair.any(2).sum(1).to(pairs.dtype)
        through = (left @ right) / n_atoms.sqrt()[:, None, None, None]
        pairs = pairs + self.triangle(self.triangle_norm(through.permute(0, 2, 3, 1)))
        return pairs + self.scores(scores.permute(0, 2, 3, 1))


class PairReader(nn.Module):
    """Hidden vector of a pair from its two atoms and its state.

    h_ij = gelu(norm(a_i + b_j + c_i * d_j + S z_ij)). Where the truth is symmetric, a = b, c = d,
    and z_ij is the mean of both directions, so that the answer is symmetric too.
    """

    def __init__(self, width: int, pair_width: int, hidden: int, *, is_symmetric: bool) -> None:
        super().__init__()
        self.is_symmetric = is_symmetric
        self.row = nn.Linear(width, 2 * hidden)
        self.column = None if is_symmetric else nn.Linear(width, 2 * hidden)
        self.state_norm = nn.LayerNorm(pair_width)
        self.state = nn.Linear(pair_width, hidden, bias=False)
        self.norm = nn.LayerNorm(hidden)

    def forward(
        self, atoms: Float[Tensor, "b n d"], pairs: Float[Tensor, "b n n c"]
    ) -> Float[Tensor, "b n n k"]:
        """Describe every ordered pair."""
        if self.is_symmetric:
            pairs = (pairs + pairs.transpose(1, 2)) / 2
        rows = self.row(atoms)
        columns = rows if self.column is None else self.column(atoms)
        added, factor = rows.chunk(2, -1)
        added_j, factor_j = columns.chunk(2, -1)
        hidden = added[:, :, None] + added_j[:, None]
        hidden = torch.addcmul(hidden, factor[:, :, None], factor_j[:, None])
        return F.gelu(self.norm(hidden + self.state(self.state_norm(pairs))))
