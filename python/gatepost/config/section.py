"""What every section of the settings is made from. Imported by the modules that define sections, so that none imports another."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of the sections: unknown keys are errors, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
