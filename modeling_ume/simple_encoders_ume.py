"""This repo's own encoders, which `AutoModel` lacks: a recurrent one for questions (LSTM, GRU) and VGG for images,
here, and those of series and tables.

All are ordinary `PreTrainedModel`s that return `last_hidden_state` and `pooler_output`; their configs are known to
`AutoConfig` as soon as this file is imported, and `SIMPLE_ENCODERS`, at the end, says which class a config builds.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clap.configuration_clap import ClapAudioConfig
from transformers.models.siglip.configuration_siglip import SiglipTextConfig
from transformers.models.siglip2.configuration_siglip2 import Siglip2TextConfig

from .simple_series_ume import SERIES_ENCODERS, init_recurrent
from .simple_tables_ume import TABLE_ENCODERS
from .sizes_ume import check_dropout, check_sizes


class UMELSTMConfig(PretrainedConfig):
    r"""
    Configuration of [`UMELSTMModel`]. The defaults are the "deeper LSTM Q" of "VQA: Visual Question Answering"
    (Antol et al., 2015): two LSTM layers of 512 over word embeddings of 300, summed up in 2048 numbers.

    Args:
        vocab_size (`int`, *optional*, defaults to 30522): number of token ids of the tokenizer.
        embedding_size (`int`, *optional*, defaults to 300): width of the word embeddings.
        hidden_size (`int`, *optional*, defaults to 512): width of a layer, in each direction.
        num_layers (`int`, *optional*, defaults to 2): layers on top of each other.
        cell (`str`, *optional*, defaults to `"lstm"`): `"lstm"` or `"gru"`.
        bidirectional (`bool`, *optional*, defaults to `False`): read the question backwards too.
        dropout (`float`, *optional*, defaults to 0.0): dropout on the embeddings and between the layers.
        pad_token_id (`int`, *optional*, defaults to 0): id whose embedding starts as zero.

    Raises:
        ValueError: for an unknown cell or an impossible size.
    """

    model_type = "ume_lstm"

    def __init__(
        self,
        vocab_size=30522,
        embedding_size=300,
        hidden_size=512,
        num_layers=2,
        cell="lstm",
        bidirectional=False,
        dropout=0.0,
        pad_token_id=0,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.cell = cell
        self.bidirectional = bidirectional
        self.dropout = dropout
        super().__init__(**kwargs)
        self.pad_token_id = pad_token_id  # afterwards: the base class of some releases has a field of this name
        if cell not in ("lstm", "gru"):
            raise ValueError(f"cell={cell!r} is not known: choose 'lstm' or 'gru'.")
        check_sizes(self, "vocab_size", "embedding_size", "hidden_size", "num_layers")
        if pad_token_id is not None and not 0 <= pad_token_id < vocab_size:
            raise ValueError(f"pad_token_id={pad_token_id} is not an id of a vocabulary of vocab_size={vocab_size}.")
        check_dropout(self)


class UMEVGGConfig(PretrainedConfig):
    r"""
    Configuration of [`UMEVGGModel`]: VGG-16 or VGG-19 ("Very Deep Convolutional Networks for Large-Scale Image
    Recognition", Simonyan and Zisserman, 2015; configurations D and E), without batch normalisation.

    Args:
        depth (`int`, *optional*, defaults to 16): 16 or 19 layers with weights, the dropped classifier among them.
        num_channels (`int`, *optional*, defaults to 3): channels of the image.
        image_size (`int`, *optional*, defaults to 224): height and width the weights were trained at; others work.
        hidden_sizes (`list[int]`, *optional*, defaults to `[64, 128, 256, 512, 512]`): channels of the five stages.
        fc_size (`int`, *optional*, defaults to 4096): width of fc6 and fc7.
        dropout (`float`, *optional*, defaults to 0.5): dropout between fc6 and fc7.

    Raises:
        ValueError: for an unknown depth or an impossible size.
    """

    model_type = "ume_vgg"

    def __init__(
        self,
        depth=16,
        num_channels=3,
        image_size=224,
        hidden_sizes=(64, 128, 256, 512, 512),
        fc_size=4096,
        dropout=0.5,
        **kwargs,
    ):
        self.depth = depth
        self.num_channels = num_channels
        self.image_size = image_size
        self.hidden_sizes = list(hidden_sizes)
        self.fc_size = fc_size
        self.dropout = dropout
        super().__init__(**kwargs)
        if depth not in CONVOLUTIONS:
            raise ValueError(f"depth={depth!r} is not known: choose one of {', '.join(map(str, CONVOLUTIONS))}.")
        if len(self.hidden_sizes) != len(CONVOLUTIONS[depth]):
            raise ValueError(f"hidden_sizes={self.hidden_sizes} must give one width for each of the five stages.")
        check_sizes(self, "num_channels", "fc_size")
        check_dropout(self)


CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # convolutions a stage, by depth
POOLED_SIDE = 7  # fc6 reads a 7×7 grid


class _SimpleEncoder(PreTrainedModel):
    supports_gradient_checkpointing = False

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.1)
            # A row is a view that does not know whether the table was loaded.
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            init.zeros_(module.bias)
        elif isinstance(module, nn.RNNBase):
            init_recurrent(module)


class UMELSTMModel(_SimpleEncoder):
    r"""
    Word embeddings and a recurrent network over the real tokens of each question.

    `last_hidden_state` [B, L, hidden_size · directions] holds the top layer's state after each token. `pooler_output`
    is what the network knows at the end, all layers side by side: the last hidden and cell states,
    [B, 2 · num_layers · directions · hidden_size], as in the "deeper LSTM Q" of Antol et al. (2015); a GRU has no cell
    state, and half of that. Tokens whose mask is 0 are skipped, wherever they stand; their states are zero.

    Args:
        config ([`UMELSTMConfig`]): what to build, with random weights.
    """

    config_class = UMELSTMConfig
    base_model_prefix = "recurrent"

    def __init__(self, config: UMELSTMConfig):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.dropout)
        self.rnn = {"lstm": nn.LSTM, "gru": nn.GRU}[config.cell](
            config.embedding_size,
            config.hidden_size,
            num_layers=config.num_layers,
            dropout=config.dropout if config.num_layers > 1 else 0.0,  # there is no other place between layers
            bidirectional=config.bidirectional,
            batch_first=True,
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings = value

    @torch.no_grad()
    def load_embeddings_from(self, source: PreTrainedModel | nn.Embedding | Tensor) -> None:
        """Starts the word embeddings from those of another model that reads the same tokenizer's ids.

        Args:
            source: a model with `get_input_embeddings`, an embedding, or its table [vocab_size, embedding_size].

        Raises:
            ValueError: when the table has another vocabulary or width than this model's config says.
        """
        if isinstance(source, PreTrainedModel):
            source = source.get_input_embeddings()
        table = source.weight if isinstance(source, nn.Embedding) else source
        if not isinstance(table, Tensor):
            raise ValueError(f"Embeddings cannot be taken from a {type(source).__name__}: give a model or its table.")
        if table.shape != self.embeddings.weight.shape:
            rows, width = self.embeddings.weight.shape
            raise ValueError(
                f"The embedding table to start from is {list(table.shape)}, but this model's is [{rows}, {width}]: "
                "set vocab_size and embedding_size to the other's, and use its tokenizer."
            )
        self.embeddings.weight.copy_(table)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """
        input_ids [B, L] or in their place inputs_embeds [B, L, E], attention_mask [B, L] with 1 for real tokens
        (default: all).

        Raises:
            ValueError: when both or neither of input_ids and inputs_embeds are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("The LSTM encoder reads either input_ids or inputs_embeds: give one of them.")
        if inputs_embeds is None:
            inputs_embeds = self.embeddings(input_ids)
        if attention_mask is None:
            mask = torch.ones(inputs_embeds.shape[:2], dtype=torch.bool, device=inputs_embeds.device)
        else:
            mask = attention_mask.bool()
        # Real tokens move to the front in their order, so that padding on the left is skipped like any other.
        order = (~mask).int().argsort(dim=1, stable=True)  # [B, L]
        embedded = inputs_embeds.gather(1, order[..., None].expand_as(inputs_embeds))  # [B, L, E]
        embedded = self.dropout(embedded)
        # A row of nothing but padding is read as one token, which the mask takes away again.
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        outputs, last = self.rnn(packed)
        states, _ = pad_packed_sequence(outputs, batch_first=True, total_length=mask.shape[1])  # [B, L, D]
        places = order.argsort(dim=1)[..., None].expand_as(states)
        states = states.gather(1, places) * mask[..., None]
        last = torch.cat(last, dim=0) if self.config.cell == "lstm" else last  # [layers · directions (· 2), B, D]
        pooled = last.transpose(0, 1).flatten(1) * mask.any(1, keepdim=True)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)


class UMEVGGModel(_SimpleEncoder):
    r"""
    VGG up to fc7. Parameters carry timm's names, so the weights of `timm/vgg16.tv_in1k` and `timm/vgg19.tv_in1k` load
    without timm; their classifier over ImageNet's 1000 classes is left behind.

    `last_hidden_state` [U, C, H/16, W/16] is the last convolution's map before its pooling (14×14 at 224 pixels);
    `pooler_output` [U, fc_size] is fc7 after its ReLU. Of images of another size the pooled map is averaged to the 7×7
    cells that fc6 reads.

    Args:
        config ([`UMEVGGConfig`]): what to build, with random weights.
    """

    config_class = UMEVGGConfig
    base_model_prefix = "vgg"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _keys_to_ignore_on_load_unexpected = [r"^head\."]  # noqa: RUF012 (read by transformers)

    def __init__(self, config: UMEVGGConfig):
        super().__init__(config)
        layers, channels = [], config.num_channels
        for width, convolutions in zip(config.hidden_sizes, CONVOLUTIONS[config.depth], strict=True):
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(kernel_size=2))
        self.features = nn.Sequential(*layers)
        self.pre_logits = nn.ModuleDict(
            {
                "fc1": nn.Conv2d(channels, config.fc_size, kernel_size=POOLED_SIDE),
                "fc2": nn.Conv2d(config.fc_size, config.fc_size, kernel_size=1),
            }
        )
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """
        pixel_values [U, C, H, W].

        Raises:
            ValueError: for images of fewer than 32 pixels a side, of which five poolings leave nothing.
        """
        height, width = pixel_values.shape[-2:]
        if min(height, width) < 2 ** len(self.config.hidden_sizes):
            raise ValueError(f"VGG cannot read images of {height}×{width} pixels: the least is 32×32.")
        grid = self.features[:-1](pixel_values)  # [U, C, H/16, W/16]
        pooled = F.adaptive_avg_pool2d(self.features[-1](grid), POOLED_SIDE)  # [U, C, 7, 7]
        fc6 = self.dropout(self.pre_logits["fc1"](pooled).relu())
        fc7 = self.pre_logits["fc2"](fc6).relu().flatten(1)  # [U, fc_size]
        return BaseModelOutputWithPooling(last_hidden_state=grid, pooler_output=fc7)


def vgg_of(fields: dict) -> UMEVGGConfig | None:
    """The config of our VGG for what the config.json of timm's says; None for any other."""
    published = {f"vgg{depth}": depth for depth in CONVOLUTIONS}
    if fields.get("model_type") == "timm_wrapper" and fields.get("architecture") in published:
        return UMEVGGConfig(depth=published[fields["architecture"]])
    return None


SIMPLE_ENCODERS: dict[str, type[PreTrainedModel]] = {
    "ume_lstm": UMELSTMModel,
    "ume_vgg": UMEVGGModel,
    **SERIES_ENCODERS,
    **TABLE_ENCODERS,
}

for _model in SIMPLE_ENCODERS.values():
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
# The first releases of transformers 5 know these halves only inside the dual config.
for _config in (SiglipTextConfig, Siglip2TextConfig, ClapAudioConfig):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
