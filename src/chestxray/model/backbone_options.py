"""What a backbone has otherwise than timm's model of its name, such as EVA-X's patches of 16 px."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

_Grid = Annotated[int, Field(ge=1, le=256)]


class BackboneOptions(BaseModel):
    """Arguments for timm's function of a backbone; None leaves timm's own value.

    Attributes:
        patch_size: side of a patch, pixels.
        embed_dim: channels of the tokens.
        depth: number of blocks.
        num_heads: of each block's attention.
        ref_feat_shape: patches along each side that rotary positions are relative to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patch_size: Annotated[int, Field(ge=2, le=64)] | None = None
    embed_dim: Annotated[int, Field(ge=8, le=4096)] | None = None
    depth: Annotated[int, Field(ge=1, le=64)] | None = None
    num_heads: Annotated[int, Field(ge=1, le=64)] | None = None
    ref_feat_shape: tuple[_Grid, _Grid] | None = None

    @classmethod
    def beside(cls, usual: dict[str, Any], wanted: dict[str, Any]) -> Self:
        """Keep of the wanted arguments those that differ from the usual ones."""
        return cls(**{name: of for name, of in wanted.items() if usual.get(name) != of})

    @property
    def given(self) -> dict[str, Any]:
        """The arguments that are given, by name."""
        return self.model_dump(exclude_none=True)


NO_OPTIONS = BackboneOptions()
