"""This repo's own encoders of tables: FT-Transformer and a multi-layer perceptron, which `AutoModel` lacks.

Both read `table_numbers` [B, F], NaN where one is missing, and `table_categories` [B, G], ids of which 0 is a missing
category and 1 an unknown one. What is missing has a token of its own, and is never 0.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from .sizes_ume import check_dropout, check_sizes


class UMETableMLPConfig(PretrainedConfig):
    r"""
    Configuration of [`UMETableMLPModel`].

    Args:
        num_numbers (`int`, *optional*, defaults to 1): columns of numbers; a recipe takes those of the data.
        category_sizes (`list[int]`, *optional*, defaults to `[]`): ids of each column of categories; as above.
        hidden_size (`int`, *optional*, defaults to 128): width of a layer.
        num_layers (`int`, *optional*, defaults to 2): layers.
        embedding_size (`int`, *optional*, defaults to 16): width of the embedding of a category.
        dropout (`float`, *optional*, defaults to 0.1): dropout after each layer.

    Raises:
        ValueError: for an impossible size.
    """

    model_type = "ume_table_mlp"

    def __init__(
        self,
        num_numbers=1,
        category_sizes=(),
        hidden_size=128,
        num_layers=2,
        embedding_size=16,
        dropout=0.1,
        **kwargs,
    ):
        self.num_numbers = num_numbers
        self.category_sizes = list(category_sizes)
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.embedding_size = embedding_size
        self.dropout = dropout
        super().__init__(**kwargs)
        check_columns(self)
        check_sizes(self, "hidden_size", "num_layers", "embedding_size")
        check_dropout(self)


class UMEFTTransformerConfig(PretrainedConfig):
    r"""
    Configuration of [`UMEFTTransformerModel`]: "Revisiting Deep Learning Models for Tabular Data" (Gorishniy et al.,
    2021), whose defaults are 192 wide; these are for tables of some hundred rows.

    Args:
        num_numbers (`int`, *optional*, defaults to 1): columns of numbers; a recipe takes those of the data.
        category_sizes (`list[int]`, *optional*, defaults to `[]`): ids of each column of categories; as above.
        hidden_size (`int`, *optional*, defaults to 64): width of a token.
        num_layers (`int`, *optional*, defaults to 2): layers.
        num_heads (`int`, *optional*, defaults to 4): attention heads, which divide the width.
        intermediate_size (`int`, *optional*): width inside a layer; defaults to 4/3 of the token's.
        attention_dropout (`float`, *optional*, defaults to 0.2), dropout (`float`, *optional*, defaults to 0.1):
            dropout of the attention's weights, and inside a layer.

    Raises:
        ValueError: for an impossible size.
    """

    model_type = "ume_ft_transformer"

    def __init__(
        self,
        num_numbers=1,
        category_sizes=(),
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        intermediate_size=None,
        attention_dropout=0.2,
        dropout=0.1,
        **kwargs,
    ):
        self.num_numbers = num_numbers
        self.category_sizes = list(category_sizes)
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_size = hidden_size * 4 // 3 if intermediate_size is None else intermediate_size
        self.attention_dropout = attention_dropout
        self.dropout = dropout
        super().__init__(**kwargs)
        check_columns(self)
        check_sizes(self, "hidden_size", "num_layers", "num_heads", "intermediate_size")
        if hidden_size % num_heads:
            raise ValueError(f"num_heads={num_heads} do not divide hidden_size={hidden_size}: choose another number.")
        check_dropout(self, "attention_dropout", "dropout")


def check_columns(config: PretrainedConfig) -> None:
    """Raises ValueError for a table without columns, or of columns without categories."""
    check_sizes(config, "num_numbers", least=0)
    if config.category_sizes:
        check_sizes(config, "category_sizes", least=RESERVED)
    elif not config.num_numbers:
        raise ValueError("num_numbers=0 and category_sizes=[] are a table without columns: give one of either.")


RESERVED = 2  # ids of no category: the missing one and the unknown one


class Categories(nn.Module):
    """One table of embeddings for all columns of categories. The missing and the unknown one start as zero."""

    def __init__(self, sizes: list[int], width: int):
        super().__init__()
        self.embeddings = nn.Embedding(sum(sizes), width)
        starts = [sum(sizes[:column]) for column in range(len(sizes))]
        self.starts = starts

    def forward(self, ids: Tensor) -> Tensor:
        """[B, G] → [B, G, width]"""
        return self.embeddings(ids + torch.tensor(self.starts, device=ids.device, dtype=ids.dtype))


class Tokens(nn.Module):
    r"""
    Each column as a token, [B, F + G, width]: of numbers x_j w_j + b_j, or m_j + b_j where one is missing, with w_j,
    m_j and b_j learned; of categories their embedding and a b_j (Gorishniy et al., 2021, equation 1).
    """

    def __init__(self, numbers: int, sizes: list[int], width: int):
        super().__init__()
        self.numbers = numbers
        self.weight = nn.Parameter(torch.empty(numbers, width)) if numbers else None
        self.missing = nn.Parameter(torch.empty(numbers, width)) if numbers else None
        self.bias = nn.Parameter(torch.empty(numbers + len(sizes), width))
        self.categories = Categories(sizes, width) if sizes else None

    def forward(self, table_numbers: Tensor, table_categories: Tensor | None) -> Tensor:
        found = []
        if self.numbers:
            gone = table_numbers.isnan()[..., None]  # [B, F, 1]
            values = table_numbers.nan_to_num(0.0)[..., None] * self.weight
            found.append(torch.where(gone, self.missing, values))
        if self.categories is not None:
            found.append(self.categories(table_categories))
        return torch.cat(found, dim=1) + self.bias


class _TableEncoder(PreTrainedModel):
    supports_gradient_checkpointing = False
    main_input_name = "table_numbers"
    base_model_prefix = "table_encoder"

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Categories):
            init.normal_(module.embeddings.weight, std=module.embeddings.embedding_dim**-0.5)
            # A row is a view that does not know whether the table was loaded.
            if not getattr(module.embeddings.weight, "_is_hf_initialized", False):
                for start in module.starts:
                    init.zeros_(module.embeddings.weight[start : start + RESERVED])
        elif isinstance(module, Tokens):
            scale = module.bias.shape[1] ** -0.5
            init.uniform_(module.bias, -scale, scale)
            if module.weight is not None:
                init.uniform_(module.weight, -scale, scale)
                init.zeros_(module.missing)
        elif isinstance(module, UMEFTTransformerModel):
            init.normal_(module.cls_token, std=module.config.hidden_size**-0.5)


class UMETableMLPModel(_TableEncoder):
    r"""
    A multi-layer perceptron over all columns of a row: numbers, which of them are missing, and the categories'
    embeddings side by side.

    `last_hidden_state` [B, 1, hidden_size]: the row is one token.

    Args:
        config ([`UMETableMLPConfig`]): what to build, with random weights.
    """

    config_class = UMETableMLPConfig

    def __init__(self, config: UMETableMLPConfig):
        super().__init__(config)
        sizes = config.category_sizes
        self.categories = Categories(sizes, config.embedding_size) if sizes else None
        width = 2 * config.num_numbers + len(sizes) * config.embedding_size
        self.layers = nn.ModuleList(
            nn.Linear(width if layer == 0 else config.hidden_size, config.hidden_size)
            for layer in range(config.num_layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(self, table_numbers: Tensor, table_categories: Tensor | None = None) -> BaseModelOutput:
        """table_numbers [B, F] with NaN where one is missing, table_categories [B, G] (needed where there are any)."""
        states = torch.cat([table_numbers.nan_to_num(0.0), table_numbers.isnan().to(table_numbers.dtype)], dim=1)
        if self.categories is not None:
            states = torch.cat([states, self.categories(table_categories).flatten(1)], dim=1)
        for layer in self.layers:
            states = self.dropout(layer(states).relu())
        return BaseModelOutput(last_hidden_state=states[:, None])


class _Layer(nn.Module):
    """x + Attention(Norm(x)), then x + ReGLU(Norm(x)); the first layer does without the first norm, as published."""

    def __init__(self, config: UMEFTTransformerConfig, first: bool):
        super().__init__()
        width = config.hidden_size
        self.heads, self.attention_dropout = config.num_heads, config.attention_dropout
        self.attention_norm = None if first else nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.gated = nn.Linear(width, 2 * config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor) -> Tensor:
        normed = states if self.attention_norm is None else self.attention_norm(states)
        parts = self.queries_keys_values(normed).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(*parts, dropout_p=dropout)  # [B, heads, N, width / heads]
        states = states + self.dropout(self.attention_output(read.transpose(1, 2).flatten(2)))
        value, gate = self.gated(self.norm(states)).chunk(2, dim=2)
        return states + self.dropout(self.output(self.dropout(value * gate.relu())))


class UMEFTTransformerModel(_TableEncoder):
    r"""
    A Transformer whose tokens are the columns of a row, with normalisation before each part (Gorishniy et al., 2021).

    `last_hidden_state` [B, 1 + F + G, hidden_size]: the class token, the columns of numbers, those of categories.

    Args:
        config ([`UMEFTTransformerConfig`]): what to build, with random weights.
    """

    config_class = UMEFTTransformerConfig

    def __init__(self, config: UMEFTTransformerConfig):
        super().__init__(config)
        self.tokens = Tokens(config.num_numbers, config.category_sizes, config.hidden_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.layers = nn.ModuleList(_Layer(config, layer == 0) for layer in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(self, table_numbers: Tensor, table_categories: Tensor | None = None) -> BaseModelOutput:
        """table_numbers [B, F] with NaN where one is missing, table_categories [B, G] (needed where there are any)."""
        columns = self.tokens(table_numbers, table_categories)
        states = torch.cat([self.cls_token.expand(columns.shape[0], -1, -1), columns], dim=1)
        for layer in self.layers:
            states = layer(states)
        return BaseModelOutput(last_hidden_state=self.norm(states))


TABLE_ENCODERS: dict[str, type[PreTrainedModel]] = {
    "ume_ft_transformer": UMEFTTransformerModel,
    "ume_table_mlp": UMETableMLPModel,
}
