"""finetune against calling sentence-transformers' CrossEncoderTrainer directly: seconds a step, start-up and saving left out.

    python benchmarks/finetune.py                     # 2 CPU cores, a BERT of 5 M parameters; paired medians
    python benchmarks/finetune.py --ray               # the command itself too, its rank on Ray Train

Both sides train the same random model on the same examples with the same loss (RankNet by the gap of the labels), batch and
optimizer. They take turns in one process, so that what else the machine does meets both; processor seconds, which a busy machine
hardly changes, stand beside the wall's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def make_model(folder: str, width: int, layers: int) -> None:
    """Write a random BERT and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    vocab = {token: place for place, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=320, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=4 * width
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)


Moment = tuple[float, float]


class Stamps:
    """The channel of a rank; keeps when each step was reported."""

    def __init__(self) -> None:
        self.times: list[Moment] = []

    def send(self, report: object) -> None:
        """Take a report."""
        from r0.supervised.training.job import Kind

        if report.kind == Kind.STEP:  # type: ignore[attr-defined]
            self.times.append(now())

    def stop_asked(self) -> bool:
        """Never."""
        return False


def ours(job: object) -> Moment:
    """Median seconds of each step but the first, in r0's rank."""
    from r0.supervised.finetune.rank import train_rank

    stamps = Stamps()
    train_rank(job, stamps)  # type: ignore[arg-type]
    return gaps(stamps.times)


def direct(job: object) -> Moment:
    """Median seconds of each step but the first, with the library's own trainer as its documentation calls it."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import LambdaLoss
    from transformers import TrainerCallback

    from r0.supervised.finetune.losses import LabelGap

    times: list[Moment] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            """Take the time."""
            times.append(now())

    config = job.config  # type: ignore[attr-defined]
    model = CrossEncoder(job.model, num_labels=1, max_length=config.max_prompt_tokens, device="cpu")  # type: ignore[attr-defined]
    arguments = CrossEncoderTrainingArguments(
        output_dir=tempfile.mkdtemp(), max_steps=job.steps, per_device_train_batch_size=config.micro_batch_size,  # type: ignore[attr-defined]
        gradient_accumulation_steps=config.batch_size // config.micro_batch_size, learning_rate=config.learning_rate,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        ddp_find_unused_parameters=False,
    )  # fmt: skip
    train = Dataset.from_file(str(Path(job.run) / "data" / "train.arrow"))  # type: ignore[attr-defined]
    loss = LambdaLoss(model, LabelGap(), reduction_log="natural", mini_batch_size=-1)
    CrossEncoderTrainer(model=model, args=arguments, train_dataset=train, loss=loss, callbacks=[Watch()]).train()
    return gaps(times)


def now() -> Moment:
    """Seconds on the wall and of the processor."""
    return time.monotonic(), time.process_time()


def gaps(times: list[Moment]) -> Moment:
    """Median seconds between steps: on the wall, of the processor."""
    wall, processor = zip(*((b[0] - a[0], b[1] - a[1]) for a, b in pairwise(times)), strict=True)
    return statistics.median(wall), statistics.median(processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=5, help="turns of each side")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ray", action="store_true", help="also the command, on Ray Train")
    given = parser.parse_args()

    import torch

    torch.set_num_threads(given.threads)
    from r0.actors.learner.zero import start_distributed
    from r0.config import FinetuneConfig
    from r0.supervised.finetune.data import Preparation, check_loss
    from r0.supervised.finetune.run import RANK
    from r0.supervised.training.job import Job

    with tempfile.TemporaryDirectory() as folder:
        make_model(f"{folder}/model", given.width, given.layers)
        keys = {
            "model": f"{folder}/model", "builtin_rows": 200, "train_group_size": 6, "batch_size": 8, "micro_batch_size": 4,
            "max_steps": given.steps, "max_prompt_tokens": 256,
        }  # fmt: skip
        config, kind = check_loss(FinetuneConfig(**keys))
        Preparation(config, kind).write(Path(folder) / "data")
        job = Job(config, config.model, folder, given.steps, 25, RANK)
        start_distributed(0, 1, "127.0.0.1:0", torch.device("cpu"), timeout_s=600)
        seconds: dict[str, list[Moment]] = {"direct": [], "ours": []}
        for turn in range(given.pairs):
            for side in (direct, ours) if turn % 2 == 0 else (ours, direct):
                for checkpoint in (Path(folder) / "checkpoints").glob("*"):
                    checkpoint.joinpath("whole").unlink(missing_ok=True)  # each turn begins anew
                seconds[side.__name__].append(side(job))
        for place, what in enumerate(("wall", "processor")):
            pairs = [(d[place], o[place]) for d, o in zip(seconds["direct"], seconds["ours"], strict=True)]
            direct_s, ours_s = (statistics.median(values) for values in zip(*pairs, strict=True))
            ratios = [o / d for d, o in pairs]
            print(
                f"{what:<10} direct {direct_s:.3f} s a step, finetune {ours_s:.3f} s, {statistics.median(ratios):.3f} ×", end=""
            )
            print(f" (pairs {', '.join(f'{ratio:.3f}' for ratio in ratios)})")
        if given.ray:
            arguments = [f"{name}={value}" for name, value in keys.items()] + [f"output={folder}/run", f"cpus={given.threads}"]
            environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
            subprocess.run(
                [sys.executable, "-m", "r0.launch", "finetune", *arguments, "validation="], check=True, env=environment
            )
            lines = [json.loads(line) for line in Path(folder, "run", "timings.jsonl").read_text().splitlines()]
            learn = statistics.median([line["learn"] for line in lines if "learn" in line][1:])
            print(f"on Ray     finetune {learn:.3f} s a step on the wall")


if __name__ == "__main__":
    main()
