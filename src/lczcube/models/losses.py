"""The loss of a network on labels that are absent nearly everywhere."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def masked_loss(
    logits: "torch.Tensor", target: "torch.Tensor", weight: "torch.Tensor", *, dice: float
) -> "torch.Tensor":
    """Weighted cross-entropy plus Dice over the labelled pixels; unlabelled ones have weight 0.

    Parameters
    ----------
    logits : torch.Tensor
        float32, shape (n, class, y, x).
    target, weight : torch.Tensor
        int64 and float32, shape (n, y, x); some weight is above 0.
    dice : float
        Weight of the Dice loss, a mean over the classes that have a label.
    """
    import torch
    import torch.nn.functional as nnf

    labelled = weight > 0
    rows = logits.permute(0, 2, 3, 1)[labelled]
    truth, share = target[labelled], weight[labelled]
    entropy = (nnf.cross_entropy(rows, truth, reduction="none") * share).sum() / share.sum()
    one_hot = nnf.one_hot(truth, rows.shape[1]) * share[:, None]
    probability = torch.softmax(rows, dim=1) * share[:, None]
    overlap = (probability * one_hot / share[:, None]).sum(dim=0)
    size = probability.sum(dim=0) + one_hot.sum(dim=0)
    present = one_hot.sum(dim=0) > 0
    missed = 1 - (2 * overlap[present] / size[present]).mean()
    return entropy + dice * missed
