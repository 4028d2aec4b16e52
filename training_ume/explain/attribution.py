"""What parts of an image and of a question speak for an answer, by the gradients of the answer's logit.

captum computes them where it is right, on feature maps, pixels and embeddings. On blocks that read tokens its Grad-CAM
sums over the wrong axis, so image tokens are averaged here; which layer to read is decided by shapes, never by names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.vision_ume import image_tokens
from training_ume.explain.parts import ROWS, STEPS, integrated, repeated

MAP_SIDE = 16  # cells a side over which the integrated map sums its pixels


def grad_cam(model: UMEForVisualQuestionAnswering, inputs: dict[str, Tensor], target: int) -> tuple[Tensor, str]:
    """
    Grad-CAM on the image encoder (Selvaraju et al., 2017): Σ_d (mean over places of ∂ logit / ∂ A_d) · A_d, signed.

    On a feature map A is the encoder's last one. Of an encoder of tokens it is what its last block reads: what the
    block gives is too late, as a head that reads the class token alone has no gradient at the others. Tokens that are
    no place in the image are left out of the mean and of the map.

    Args:
        inputs: of one question and one image, with `pixel_values` [1, 3, H, W].
        target: id of the answer.

    Returns:
        The map [h, w], and the name of the layer.

    Raises:
        ValueError: where no layer of the encoder shows places of the image.
    """
    from captum.attr import LayerGradCam

    encoder = model.ume.vision_model
    pixel_values = inputs["pixel_values"].detach().clone()
    text = {name: value for name, value in inputs.items() if name != "pixel_values"}
    name, layer, of_tokens = cam_layer(model, pixel_values)
    with torch.enable_grad():
        if not of_tokens:
            method = LayerGradCam(lambda pixels: model(**text, pixel_values=pixels).logits, layer)
            return method.attribute(pixel_values, target=target)[0, 0].detach().float(), name
        read = []
        handle = layer.register_forward_pre_hook(lambda module, args: read.append(args[0]))
        try:
            # Weights may be frozen: it is the pixels that make a graph.
            logits = model(**text, pixel_values=pixel_values.requires_grad_()).logits
        finally:
            handle.remove()
        [gradient] = torch.autograd.grad(logits[0, target], read)
    size = tuple(pixel_values.shape[-2:])
    (places, special, grid), (slopes, _, _) = (
        image_tokens(encoder.config, BaseModelOutput(last_hidden_state=x.detach().float()), size)
        for x in (read[0], gradient)
    )
    weights = slopes[0, special:].mean(0)  # [D]
    return (places[0, special:] @ weights).unflatten(0, grid), name


def integrated_map(
    model: UMEForVisualQuestionAnswering, inputs: dict[str, Tensor], target: int
) -> tuple[Tensor, float]:
    """
    Integrated gradients of the answer's logit over the pixels, from the image's mean colour to the image.

    Unlike Grad-CAM it needs no layer, does not fade where the model is sure, and adds up to the difference of the
    logits at the two ends.

    Args:
        inputs: of one question and one image, with `pixel_values` [1, C, H, W].
        target: id of the answer.

    Returns:
        The sums over 16 × 16 cells, and by how much these fail to sum to that difference.
    """
    pixel_values = inputs["pixel_values"]
    mean_colour = pixel_values.mean((2, 3), keepdim=True).expand_as(pixel_values).clone()
    pixels, begins_at, ends_at = integrated(model, inputs, "pixel_values", mean_colour, target)
    cells = sum_over_cells(pixels.sum(0), MAP_SIDE).float()
    # Of the map that is shown: what goes wrong on the way from the pixels to it counts, too.
    return cells, abs(cells.double().sum().item() - (ends_at - begins_at))


def sum_over_cells(pixels: Tensor, side: int) -> Tensor:
    """
    The sums of pixels [H, W] over side × side equal cells, in float64.

    A pixel that several cells share is divided among them by area, so that whatever the sizes, also of an image with
    fewer pixels than cells, the cells sum to what the pixels do.
    """

    def shares(length: int) -> Tensor:
        """[side, length]: how much of each pixel lies in each cell; a pixel's shares sum to 1."""
        edges = torch.arange(side + 1, dtype=torch.float64, device=pixels.device) * length / side
        starts = torch.arange(length, dtype=torch.float64, device=pixels.device)
        return (torch.minimum(edges[1:, None], starts + 1) - torch.maximum(edges[:-1, None], starts)).clamp(min=0)

    return shares(pixels.shape[0]) @ pixels.double() @ shares(pixels.shape[1]).T


def cam_layer(model: UMEForVisualQuestionAnswering, pixel_values: Tensor) -> tuple[str, nn.Module, bool]:
    """
    The layer of the image encoder whose places the head hears of last, found by the shapes that go through it.

    Returns:
        Its name, the layer, and whether it is a block of an encoder of tokens, whose input is to be read; otherwise
        it is the output, a feature map [U, C, h, w].

    Raises:
        ValueError: where no layer shows places of the image.
    """
    encoder, adapter = model.ume.vision_model, model.ume._adapters["vision"]
    lists = (nn.ModuleList, nn.Sequential)
    blocks = {b for m in encoder.modules() if isinstance(m, lists) for b in m if next(b.children(), None) is not None}
    entered, left, outputs = [], [], []
    hooks = [encoder.register_forward_hook(lambda module, args, output: outputs.append(output))]
    for name, module in encoder.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda m, args, name=name: entered.append((name, m, args))))
        hooks.append(module.register_forward_hook(lambda m, args, output, name=name: left.append((name, m, output))))
    try:
        with torch.no_grad():
            adapter.kind.look(adapter, encoder, pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    last = outputs[-1].last_hidden_state
    states, _, grid = image_tokens(encoder.config, outputs[-1], pixel_values.shape[-2:])
    maps = [x for x in left if isinstance(x[2], Tensor) and x[2].ndim == 4 and x[2].shape[-2:] == grid]
    for name, module, output in reversed(maps):
        if output is last:
            return name, module, False
    given = {module: output for _, module, output in left}
    for name, module, args in reversed(entered):  # the last to be entered is the innermost
        if module in blocks and args and _tokens(args[0]) == _tokens(given[module]) == (len(states), states.shape[1]):
            return name, module, True
    if maps:
        return *maps[-1][:2], False
    raise ValueError(
        f"No layer of the image encoder {encoder.config.model_type!r} shows places of the image (tokens that a block "
        "reads, or a feature map), so there is no map of where it looked: choose another encoder."
    )


def _tokens(x) -> tuple[int, int] | None:
    """(U, N) of token states [U, N, D], which may be the first of a tuple; None of anything else."""
    x = x[0] if isinstance(x, tuple) and x else x
    return tuple(x.shape[:2]) if isinstance(x, Tensor) and x.ndim == 3 else None


def token_scores(
    model: UMEForVisualQuestionAnswering,
    text: dict[str, Tensor],
    blank: Tensor,
    encoded: dict[str, Tensor],
    target: int,
) -> tuple[Tensor, float, float]:
    """
    Integrated gradients (Sundararajan et al., 2017) of the answer's logit at the layer of word embeddings.

    The path leads from the embeddings of a blank question to those of the question itself.

    Args:
        text: `input_ids` [1, L] and what belongs to them.
        blank: the ids [1, L] of the blank question; where they equal the question's, the score is 0.
        encoded: what there is besides, as `encode` gives it.
        target: id of the answer.

    Returns:
        The scores [L]; the logit where the path begins; and by how much the scores fail to sum to the difference of
        the logits at its ends.
    """
    from captum.attr import IntegratedGradients

    ids = text["input_ids"]
    # Some encoders read by a second module that shares the table which they name as theirs.
    table = model.get_input_embeddings().weight
    layers = [m for m in model.ume.text_model.modules() if isinstance(m, nn.Embedding) and m.weight is table]

    def logit(embeddings: Tensor) -> Tensor:
        """[n, L, E] in place of the embeddings → [n]."""
        rows = repeated(model, {**text, **encoded}, len(embeddings))

        def replace(module, args, output):
            # XLNet puts the length first.
            return embeddings if torch.equal(args[0], rows["input_ids"]) else embeddings.transpose(0, 1)

        hooks = [layer.register_forward_hook(replace) for layer in layers]
        try:
            return model(**rows).logits[:, target].float()
        finally:
            for hook in hooks:
                hook.remove()

    with torch.no_grad():
        start, end = layers[-1](blank), layers[-1](ids)
        begins_at = logit(start).item()
    # cuDNN gives recurrent networks no gradients in eval mode.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        method = IntegratedGradients(logit)
        scores, error = method.attribute(
            end, start, n_steps=STEPS, internal_batch_size=ROWS, return_convergence_delta=True
        )
    return scores[0].sum(-1).detach().float().cpu(), begins_at, abs(error.item())
