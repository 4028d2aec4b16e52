"""Encoders run apart from the rest of a model: what they say is given to `forward` later, in place of their inputs."""

from torch import Tensor

from .inputs_ume import as_inputs, as_stream
from .modalities_ume import MODALITIES
from .padding_ume import join_streams


class EncodesApart:
    """The part of a model with a `UMEModel`, `ume`, that runs single encoders."""

    def encode_images(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> dict[str, Tensor]:
        r"""
        Runs the image encoder alone, for questions that come later: `model(**questions, **encoded, image_index=…)`.

        What comes back is worth something only as long as the encoder's weights stay as they are.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`): each image once.
            pixel_mask (`torch.Tensor` of shape `(images, height, width)`, *optional*): 0 where an image was padded.

        Returns:
            `dict`: what `forward` takes instead of pixels: `vision_states` `(images, tokens, width)`, `vision_pooled`
            `(images, width)`, where the tokens form a grid, `vision_grid` `(2,)`, which lies on the CPU, and, where
            images were padded, `vision_mask` `(images, tokens)`.
        """
        encoded = self.encode("vision", pixel_values=pixel_values, pixel_mask=pixel_mask)
        return encoded if pixel_mask is not None else {k: v for k, v in encoded.items() if k != "vision_mask"}

    def encode(self, modality: str, **inputs: Tensor) -> dict[str, Tensor]:
        """
        Runs the encoder of one modality alone, as `encode_images` does that of images.

        Args:
            modality: its key in `MODALITIES`.
            inputs: what `forward` takes of it.

        Returns:
            `dict`: what `forward` takes instead: `…_states`, `…_pooled`, the mask of the states and, where they form
            one, `…_grid`.
        """
        return as_inputs(self.ume.encode(modality, **inputs))

    def join_images(self, encoded: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `encode_images` said of several images one by one → what it says of all of them together."""
        return as_inputs(join_streams([as_stream(MODALITIES["vision"], image) for image in encoded]))
