"""Documents of ours in the bucket: frozen, strict, each with a published JSON schema (docs/schemas)."""

import json
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from keepwell.errors import VerificationFailed


class Document(BaseModel):
    """One kind of document; its fields say what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        """As stored: indented, for whoever reads it by eye at 3 a.m."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Read a stored document.

        Raises:
            VerificationFailed: It is not one.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, fault["loc"])) or "the document"
            raise VerificationFailed(
                f"A stored {cls.__name__.lower()} is damaged: {place}: {fault['msg']}.",
                hint="It was not written like this: compare it with an older set's.",
            ) from None
