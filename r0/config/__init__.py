"""The closed, typed configuration. ``load`` reads it; the other modules name the keys of each command."""

from r0.config.commands import ConvertConfig, DataKeys, RankKeys, RolloutsConfig, RunKeys, SftConfig, TrainingKeys
from r0.config.finetune import FinetuneConfig
from r0.config.lists import ListKeys, ListRewardSection
from r0.config.ranking import EvaluateConfig, RankingKeys, RerankConfig, RetrieveConfig
from r0.config.rl import DemoConfig, RLConfig, StageAConfig, StageBConfig, WarmStartSection
from r0.config.sections import (
    CheckpointSection,
    EvalSection,
    GRPOSection,
    LearnerSection,
    LoraSection,
    PPOSection,
    RaySection,
    RewardBase,
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
    "EvaluateConfig",
    "FinetuneConfig",
    "GRPOSection",
    "LearnerSection",
    "ListKeys",
    "ListRewardSection",
    "LoraSection",
    "PPOSection",
    "RLConfig",
    "RankKeys",
    "RankingKeys",
    "RaySection",
    "RerankConfig",
    "RetrieveConfig",
    "RewardBase",
    "RewardSection",
    "RolloutSection",
    "RolloutsConfig",
    "RunKeys",
    "Section",
    "SftConfig",
    "StageAConfig",
    "StageBConfig",
    "SyncSection",
    "TrackingSection",
    "TrainingKeys",
    "WarmStartSection",
]
