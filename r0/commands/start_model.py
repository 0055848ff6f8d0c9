"""Whether a command can use its model: the checks that the command itself makes before it loads any weights."""

from __future__ import annotations

from pathlib import Path

from r0.config import EsciConfig, FinetuneConfig, RankingKeys, RLConfig, SftConfig, StageCConfig, TrainingKeys


def check_model(config: TrainingKeys | RankingKeys, folder: Path) -> None:
    """Refuse a model that the command of ``config`` cannot use.

    Raises:
        UserError: with what is wrong and the remedy.
    """
    if isinstance(config, RLConfig):
        from r0.commands import training

        training.check_model(config, folder)
    elif isinstance(config, SftConfig):
        from r0.supervised.sft import run as sft

        sft.check_model(config, folder)
    elif isinstance(config, StageCConfig):
        from r0.supervised.stage_c import run as stage_c

        stage_c.check_model(config, folder)
    elif isinstance(config, EsciConfig):
        from r0.supervised.esci import run as esci

        esci.check_model(config, folder)
    elif isinstance(config, FinetuneConfig):
        from r0.supervised.finetune import plan

        plan.check_model(config, folder)
    elif isinstance(config, RankingKeys):
        from r0.rerank.prompt_budget import check_model as check_ranker

        check_ranker(config, folder)
