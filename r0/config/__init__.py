"""The typed configuration. ``load`` reads it; the other modules define the keys of each command."""

from r0.config.algorithms import GRPOSection, PPOSection
from r0.config.annotate import AnnotateConfig
from r0.config.bench import BenchConfig
from r0.config.commands import (
    CompletionConfig,
    ConvertConfig,
    DataKeys,
    PlainRankKeys,
    RankKeys,
    RolloutsConfig,
    RunKeys,
    ScheduleKeys,
    SftConfig,
    SourceKeys,
    TrainingKeys,
)
from r0.config.demo import DemoConfig, WarmStartSection
from r0.config.distill import ScoreConfig
from r0.config.distill_run import DistillConfig, DistillEvalConfig, TeacherSection
from r0.config.distill_train import DistillTrainConfig, DistillTripletsConfig
from r0.config.esci import EsciConfig, EsciEvalConfig, EsciLoraSection
from r0.config.export import ExportConfig
from r0.config.finetune import FinetuneConfig
from r0.config.lists import ListKeys, ListRewardSection, ListSourceKeys
from r0.config.mining import MineConfig
from r0.config.ranking import EvaluateConfig, FuseConfig, RankingKeys, RerankConfig, RetrieveConfig, ScoringKeys
from r0.config.report import ReportConfig
from r0.config.rl import RLConfig, StageAConfig, StageBConfig
from r0.config.sections import (
    CheckpointSection,
    EvalSection,
    LearnerSection,
    LoraSection,
    RaySection,
    RewardBase,
    RewardSection,
    RolloutSection,
    Section,
    SyncSection,
    TrackingSection,
)
from r0.config.serve import ServeConfig
from r0.config.stage_c import ScoreLossSection, StageCConfig

__all__ = [
    "AnnotateConfig",
    "BenchConfig",
    "CheckpointSection",
    "CompletionConfig",
    "ConvertConfig",
    "DataKeys",
    "DemoConfig",
    "DistillConfig",
    "DistillEvalConfig",
    "DistillTrainConfig",
    "DistillTripletsConfig",
    "EsciConfig",
    "EsciEvalConfig",
    "EsciLoraSection",
    "EvalSection",
    "EvaluateConfig",
    "ExportConfig",
    "FinetuneConfig",
    "FuseConfig",
    "GRPOSection",
    "LearnerSection",
    "ListKeys",
    "ListRewardSection",
    "ListSourceKeys",
    "LoraSection",
    "MineConfig",
    "PPOSection",
    "PlainRankKeys",
    "RLConfig",
    "RankKeys",
    "RankingKeys",
    "RaySection",
    "ReportConfig",
    "RerankConfig",
    "RetrieveConfig",
    "RewardBase",
    "RewardSection",
    "RolloutSection",
    "RolloutsConfig",
    "RunKeys",
    "ScheduleKeys",
    "ScoreConfig",
    "ScoreLossSection",
    "ScoringKeys",
    "Section",
    "ServeConfig",
    "SftConfig",
    "SourceKeys",
    "StageAConfig",
    "StageBConfig",
    "StageCConfig",
    "SyncSection",
    "TeacherSection",
    "TrackingSection",
    "TrainingKeys",
    "WarmStartSection",
]
