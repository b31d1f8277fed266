"""The transformer of tinydiff in PyTorch, for Hugging Face's transformers: configuration and network in one file.

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)  # AutoModelForCausalLM: left to right

Importing the file, in place of trusting it, registers the classes as well.

Logits are not shifted: those of a mask are about the token that it hides. A left-to-right model reads START (the
`bos_token`) first, so that what it says at a place is about the next one, as everywhere in transformers. Special tokens
have a logit of -10,000, and so no probability.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput, MaskedLMOutput


class TinydiffConfig(PretrainedConfig):
    """What a network is built from, under the names that LLaDA, Dream and others use.

    Parameters
    ----------
    positions : "rotary", "learned" (a vector per place) or "both"
    attention_block : 0: all positions see one another; 1: none sees a later one; b: none sees beyond its block of b

    """

    model_type = "tinydiff"

    def __init__(
        self,
        vocab_size=3,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        rope_theta=10_000.0,
        layer_norm_eps=1e-5,
        hidden_act="gelu_pytorch_tanh",
        positions="both",
        attention_block=0,
        **options,
    ):
        self.vocab_size = vocab_size
        self.hidden_size, self.intermediate_size = hidden_size, intermediate_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.max_position_embeddings, self.rope_theta = max_position_embeddings, rope_theta
        self.layer_norm_eps, self.hidden_act = layer_norm_eps, hidden_act
        self.positions, self.attention_block = positions, attention_block
        self.mask_token_id = options.pop("mask_token_id", None)
        super().__init__(**{"tie_word_embeddings": False, "use_cache": False} | options)


class Block(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, config: TinydiffConfig) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        self.norm1, self.norm2 = nn.LayerNorm(d, eps), nn.LayerNorm(d, eps)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, config.intermediate_size), nn.Linear(config.intermediate_size, d)

    def forward(self, h: Tensor, angles: Tensor | None, seen: Tensor) -> Tensor:
        """(B, L, d) to (B, L, d); angles (B, L, D / 2), `seen` (B, 1, L, L) where a row may see a column."""
        batch, length, _ = h.shape
        qkv = self.qkv(self.norm1(h)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, L, D)
        if angles is not None:
            q, k = turned(q, angles), turned(k, angles)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        h = h + self.out(attended.transpose(1, 2).reshape(h.shape))
        return h + self.down(F.gelu(self.up(self.norm2(h)), approximate="tanh"))


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions: coordinates j and j + D / 2 of (B, H, L, D) turn by an angle (B, L, D / 2)."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype)[:, None], angles.sin().to(x.dtype)[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class TinydiffPreTrainedModel(PreTrainedModel):
    """What transformers asks of every model."""

    config_class = TinydiffConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]  # noqa: RUF012 (the library's way)


class TinydiffModel(TinydiffPreTrainedModel):
    """The network without its head."""

    def __init__(self, config: TinydiffConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.positions != "rotary":
            self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, attention_mask=None, position_ids=None, return_dict=None, **_):
        """Ids (B, L) to hidden states (B, L, d).

        Parameters
        ----------
        attention_mask : (B, L), 0 where there is padding, which nothing sees
        position_ids : (B, L) or (1, L), where each token stands; None: one after the other

        """
        length = input_ids.shape[1]
        places = torch.arange(length, device=input_ids.device)
        block = self.config.attention_block
        seen = torch.ones(1, 1, length, length, dtype=torch.bool, device=input_ids.device)
        if block:
            seen = (places[:, None] // block >= places // block)[None, None]
        if attention_mask is not None:
            itself = torch.eye(length, dtype=torch.bool, device=input_ids.device)  # no row sees nothing
            seen = seen & attention_mask[:, None, None, :].bool() | itself
        if position_ids is None:
            position_ids = places[None]
        if int(position_ids.max()) >= self.config.max_position_embeddings:
            raise ValueError(
                f"input_ids reach position {int(position_ids.max())}; this model was built for at most "
                f"{self.config.max_position_embeddings} tokens"
            )
        h = self.embed(input_ids)
        angles = None
        if self.config.positions != "rotary":
            h = h + self.position(position_ids)
        if self.config.positions != "learned":
            depth = self.config.hidden_size // self.config.num_attention_heads
            powers = torch.arange(0, depth, 2, dtype=torch.float64, device=input_ids.device) / depth
            angles = position_ids[..., None] * self.config.rope_theta**-powers  # (B, L, D / 2)
        for layer in self.blocks:
            h = layer(h, angles, seen)
        h = self.norm(h)
        return BaseModelOutput(last_hidden_state=h) if return_dict is not False else (h,)


class TinydiffForMaskedLM(TinydiffPreTrainedModel):
    """Masked diffusion, BERT, or diffusion in blocks: logits of what every mask hides."""

    def __init__(self, config: TinydiffConfig) -> None:
        super().__init__(config)
        self.model = TinydiffModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, attention_mask=None, position_ids=None, labels=None, return_dict=None, **_):
        """Logits (B, L, V); with `labels` (B, L), -100 where nothing is asked, also their mean cross-entropy."""
        logits = self.lm_head(self.model(input_ids, attention_mask, position_ids).last_hidden_state)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return MaskedLMOutput(loss=loss, logits=logits)


class TinydiffForCausalLM(TinydiffForMaskedLM, GenerationMixin):
    """Left to right: logits of the next token. `generate` reads everything anew for each; it keeps no cache."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, labels=None, return_dict=None, **_):
        """Logits (B, L, V); with `labels` (B, L), the ids themselves, also the mean cross-entropy of the next ones."""
        logits = super().forward(input_ids, attention_mask, position_ids).logits
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
        return {"input_ids": input_ids, "attention_mask": attention_mask}


AutoConfig.register("tinydiff", TinydiffConfig, exist_ok=True)
AutoModel.register(TinydiffConfig, TinydiffModel, exist_ok=True)
AutoModelForMaskedLM.register(TinydiffConfig, TinydiffForMaskedLM, exist_ok=True)
AutoModelForCausalLM.register(TinydiffConfig, TinydiffForCausalLM, exist_ok=True)
