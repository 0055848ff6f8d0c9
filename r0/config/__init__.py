"""The closed, typed configuration. ``load`` reads it; the other modules name the keys of each command."""

from r0.config.commands import ConvertConfig, DataKeys, RankKeys, RolloutsConfig, RunKeys, SftConfig, TrainingKeys
from r0.config.finetune import FinetuneConfig
from r0.config.lists import ListKeys, ListRewardSection, ListSourceKeys
from r0.config.mining import MineConfig
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
from r0.config.stage_c import ScoreLossSection, StageCConfig

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
    "ListSourceKeys",
    "LoraSection",
    "MineConfig",
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
    "ScoreLossSection",
    "Section",
    "SftConfig",
    "StageAConfig",
    "StageBConfig",
    "StageCConfig",
    "SyncSection",
    "TrackingSection",
    "TrainingKeys",
    "WarmStartSection",
]
