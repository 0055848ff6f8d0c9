"""The closed, typed configuration. ``load`` reads it, ``commands`` names the keys of each command."""

from r0.config.commands import (
    ConvertConfig,
    DataKeys,
    DemoConfig,
    RolloutsConfig,
    RunKeys,
    SftConfig,
    StageAConfig,
    WarmStartSection,
)
from r0.config.sections import (
    CheckpointSection,
    EvalSection,
    GRPOSection,
    LearnerSection,
    LoraSection,
    PPOSection,
    RaySection,
    RewardSection,
    RolloutSection,
    Section,
    SyncSection,
    TrackingSection,
)

__all__ = [
    "CheckpointSection",
    "ConvertConfig",
    "DataKeys",
    "DemoConfig",
    "EvalSection",
    "GRPOSection",
    "LearnerSection",
    "LoraSection",
    "PPOSection",
    "RaySection",
    "RewardSection",
    "RolloutSection",
    "RolloutsConfig",
    "RunKeys",
    "Section",
    "SftConfig",
    "StageAConfig",
    "SyncSection",
    "TrackingSection",
    "WarmStartSection",
]
