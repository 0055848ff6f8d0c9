"""The configuration: refused input and its messages, and every shipped YAML loads."""

from pathlib import Path

import pytest
import yaml

from r0.config import DemoConfig, EsciConfig, GRPOSection, RolloutsConfig, SftConfig, StageAConfig
from r0.config.load import load
from r0.errors import UserError
from r0.launch import COMMANDS, default_config, parse
from r0.records import Form
from r0.runs.resolved import to_yaml

CONFIGS = Path(str(default_config("stage_a"))).parent
EARLIER = """
epochs: 1
batch_size: 2
learning_rate: 6e-6
kl_coef: 0.02
seed: 42
max_new_tokens: 256
temperature: 0.7
top_p: 1.0
max_think_tokens: 200
gradient_checkpointing: true
missing_eos_penalty: 0.5
system_prompt: |
  Judge.
reward: {format_weight: 0.4, acc_weight: 0.5, length_penalty: 0.05, max_think_tokens: 200, extra_text_penalty: 0.2,
         invalid_tag_penalty: 0.5, missing_answer_penalty: 0.3, think_bonus: 0.3, min_think_tokens: 64}
ppo: {num_ppo_epochs: 2, cliprange: 0.2, cliprange_value: 0.2, vf_coef: 0.2, gamma: 0.99, lam: 0.95, whiten_rewards: false}
"""


def read(tmp_path, text, *overrides, model=StageAConfig):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load(model, path, overrides)


def refused(tmp_path, text, *overrides, model=StageAConfig) -> str:
    with pytest.raises(UserError) as error:
        read(tmp_path, text, *overrides, model=model)
    return str(error.value)


def test_the_earlier_trainers_file_loads_as_it_is(tmp_path):
    config = read(tmp_path, EARLIER)
    assert (config.algo, config.learning_rate, config.ppo.num_ppo_epochs) == ("ppo", 6e-6, 2)
    assert config.reward.missing_eos_penalty == 0.5 == config.missing_eos_penalty
    assert config.model == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert config.data == "builtin"


def test_the_file_beside_the_project_loads_and_ours_has_its_keys_and_values():
    path = Path(__file__).parents[3] / "shared" / "earlier" / "stage_a.yaml"
    if not path.exists():
        pytest.skip("the earlier trainer's file is not beside the project")
    theirs, ours = yaml.safe_load(path.read_text()), yaml.safe_load(default_config("stage_a").read_text())
    assert load(StageAConfig, path).algo == "ppo"
    assert theirs.pop("system_prompt") != ours.pop("system_prompt")
    assert theirs == ours


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_yaml_loads(path):
    name = next(name for name in sorted(COMMANDS, key=len, reverse=True) if path.stem.startswith(name))
    config, _ = parse(name, [str(path)])
    form = getattr(config, "form", None)  # none: its prompts are no chat
    # Lists have r0's own where none is given, stage C and rerank what the model was trained with.
    assert form is None or config.system_prompt or form != Form.YES_NO or name in ("stage_c", "rerank")


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.shipped and not command.positionals])
def test_every_training_command_has_a_shipped_default(name):
    assert default_config(name).is_file()


def test_yaml_1_2_scalars(tmp_path):
    assert read(tmp_path, "learning_rate: 1e-6\n").learning_rate == 1e-6
    assert read(tmp_path, "tracking:\n  wandb: off\n").tracking.wandb == "off"


@pytest.mark.parametrize(("written", "meant"), [("010", 10), ("08", 8), ("000012", 12), ("+07", 7), ("0", 0), ("1_000", 1000)])
def test_an_integer_is_decimal_whatever_zeros_it_begins_with(tmp_path, written, meant):
    assert read(tmp_path, f"seed: {written}\n").seed == meant
    assert read(tmp_path, "", f"seed={written}").seed == meant
    assert load(RolloutsConfig, None, ["run=x", f"step={written}"]).step == meant


def test_a_value_that_its_tag_or_its_length_makes_unreadable_is_refused(tmp_path):
    for value in ("!!bool x", "!!timestamp x", "!!int x", "!!float x", "9" * 5000):
        assert "run.yaml:1: seed: cannot be read; write a plain value" in refused(tmp_path, f"seed: {value}\n")
        assert "seed: input should be a valid integer" in refused(tmp_path, "", f"seed={value}")


@pytest.mark.parametrize(
    ("text", "override", "words"),
    [
        ("chat_template_kwargs: [a]\n", "chat_template_kwargs.x=1", "run.yaml:1: chat_template_kwargs: is a mapping"),
        ("reward: 4\n", "reward.acc_weight=1", "run.yaml:1: reward: is a section, whose keys are written below it, not 4"),
    ],
)
def test_an_override_does_not_hide_that_the_file_has_no_section_there(tmp_path, text, override, words):
    assert words in refused(tmp_path, text, override)


def test_a_section_that_is_none_is_refused_beside_a_key_that_belongs_into_it(tmp_path):
    words = refused(tmp_path, "tracking: 4\nreport_to: wandb\n", model=EsciConfig).splitlines()[0]
    assert words.endswith("run.yaml:1: tracking: is a section, whose keys are written below it, not 4")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat: 1e-6\n", "run.yaml:1: unknown key learning_rat at the top level; did you mean learning_rate?"),
        (
            "seed: 1\nreward:\n  acc_wieght: 1.0\n",
            "run.yaml:3: unknown key acc_wieght in section reward; did you mean reward.acc_weight?",
        ),
        ("LR: 1e-5\n", "run.yaml:1: unknown key LR at the top level; did you mean learning_rate?"),
        ("Model: x\n", "run.yaml:1: unknown key Model at the top level; did you mean model?"),
        ("str: 1\n", "run.yaml:1: unknown key str at the top level"),
        ("bool: 1\n", "run.yaml:1: unknown key bool at the top level"),
        ("a[0]: 1\n", "run.yaml:1: unknown key a[0] at the top level"),
        ("learner:\n  Ranks: 2\n", "run.yaml:2: unknown key Ranks in section learner; did you mean learner.ranks?"),
        ("chat_template_kwargs:\n  X: .nan\n", "run.yaml:2: chat_template_kwargs.X: input should be a finite number, not nan"),
        ("learning_rate: fast\n", "run.yaml:1: learning_rate: input should be a valid number, not 'fast'"),
        ("seed: 1\nlearning_rate: .nan\n", "run.yaml:2: learning_rate"),
        ("reward:\n  acc_weight: -0.5\n", "run.yaml:2: reward.acc_weight: input should be greater than or equal to 0, not -0.5"),
        ("batch_size: 0\n", "batch_size"),
        (
            "learner:\n  lora:\n    target_modules: q_proj\n",
            "run.yaml:3: learner.lora.target_modules: input should be a list, such as [q_proj], not 'q_proj'",
        ),
        ("reward: 4\n", "run.yaml:1: reward: is a section, whose keys are written below it, not 4"),
        ("batch_size: '4'\n", "batch_size: input should be a valid integer, not '4'"),
        ("gradient_checkpointing: yes\n", "gradient_checkpointing"),
        ("seed: 1\nseed: 2\n", "run.yaml:2: seed is given twice"),
        ("reward:\n  acc_weight: 1\n  acc_weight: 2\n", "run.yaml:3: reward.acc_weight is given twice"),
        ("top_p: 0.9\n", "run.yaml:1: top_p: 0.9 would bias"),
        ("max_think_tokens: 100\nreward:\n  max_think_tokens: 200\n", "contradicts"),
        ("ppo: {}\ngrpo: {}\n", "choose with algo=ppo or algo=grpo"),
        ("algo: grpo\ngrpo:\n  num_generations: 1\n", "with 1 completion per group"),
        ("algo: grpo\ngrpo: {num_generations: 1, advantage: rloo}\n", "with 1 completion per group"),
        (
            "algo: grpo\ngrpo: {num_generations: 1, advantage: reinforce_pp, refill_rounds: 1}\n",
            "every round would be sampled in vain",
        ),
        ("algo: ppo\nppo: {}\ngrpo:\n  clip_low: -1\n", "run.yaml:4: grpo.clip_low"),
        ("- a\n", "a configuration is a mapping"),
        ("a: [\n", "not YAML"),
        ("ray: {inline: true}\nlearner: {ranks: 2}\n", "ray.inline"),
        ("reward: {min_think_tokens: 300}\n", "min_think_tokens"),
    ],
)
def test_bad_files_are_refused_with_location_and_remedy(tmp_path, text, words):
    assert words in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("reward.acc_wieght=1", "did you mean reward.acc_weight?"),
        ("reward=1", "is a section; give its keys"),
        ("seed.x=1", "seed is a value, not a section"),
        ("seed=one", "seed: input should be a valid integer, not 'one'"),
        ("nonsense", "an override is written key=value"),
    ],
)
def test_bad_overrides_are_refused(tmp_path, override, words):
    assert words in refused(tmp_path, "seed: 1\n", override)


def test_overrides_are_read_by_the_fields_type(tmp_path):
    config = read(
        tmp_path, EARLIER, "learning_rate=1e-4", "model=123", "learner.lora.target_modules=[q_proj, v_proj]", "output=null",
        "ppo.whiten_rewards=true",
    )  # fmt: skip
    assert (config.learning_rate, config.model, config.output) == (1e-4, "123", None)
    assert config.learner.lora.target_modules == ("q_proj", "v_proj")
    assert config.ppo.whiten_rewards


@pytest.mark.parametrize("advantage", ["reinforce_pp", "reinforce_pp_completions"])
def test_one_group_is_enough_for_reinforce_pp(tmp_path, advantage):
    assert read(tmp_path, f"grpo: {{num_generations: 1, advantage: {advantage}}}\n").algo == "grpo"


@pytest.mark.parametrize(
    ("given", "clips", "denominator", "estimator"),
    [
        ("{}", (0.2, 0.28), "tokens", "k3"),
        ("{loss: gspo}", (3e-4, 4e-4), "sequences", "k3"),
        ("{loss: gspo, denominator: tokens, clip_low: 0.1, clip_high: 0.1}", (0.1, 0.1), "tokens", "k3"),
        ("{loss: gspo, denominator: null}", (3e-4, 4e-4), "sequences", "k3"),
        ("{loss: cispo}", (0.2, 0.28), "tokens", "k3"),
        ("{kl_in: reward}", (0.2, 0.28), "tokens", "k1"),
        ("{kl_in: reward, kl_estimator: k2}", (0.2, 0.28), "tokens", "k2"),
    ],
)
def test_defaults_of_grpo_follow_from_its_loss_and_place_of_the_kl(tmp_path, given, clips, denominator, estimator):
    grpo = read(tmp_path, f"grpo: {given}\n").grpo
    assert (grpo.clip_low, grpo.clip_high, grpo.denominator, grpo.kl_estimator) == (*clips, denominator, estimator)


def test_the_shipped_grpo_file_leaves_to_the_loss_what_follows_from_it():
    path = CONFIGS / "stage_a_grpo.yaml"
    usual, gspo = load(StageAConfig, path).grpo, load(StageAConfig, path, ["grpo.loss=gspo"]).grpo
    assert (usual.clip_low, usual.clip_high, usual.denominator) == (0.2, 0.28, "tokens")
    assert (gspo.clip_low, gspo.clip_high, gspo.denominator) == (3e-4, 4e-4, "sequences")


def test_a_default_that_follows_is_written_as_it_is_used(tmp_path):
    config = read(tmp_path, "grpo: {kl_in: reward}\n", "grpo.loss=gspo")
    assert read(tmp_path, to_yaml("stage_a", config)) == config
    written = yaml.safe_load(to_yaml("stage_a", config))["grpo"]
    assert (written["denominator"], written["kl_estimator"], written["clip_low"]) == ("sequences", "k1", 3e-4)


@pytest.mark.parametrize("place", ["", "reward."])
def test_one_of_two_keys_that_mean_the_same_replaces_the_other_of_the_file_below(tmp_path, place):
    config, _ = parse("stage_a", [f"{place}max_think_tokens=300", f"{place}missing_eos_penalty=0.1"])
    assert (config.max_think_tokens, config.missing_eos_penalty) == (300, 0.1)
    assert (config.reward.max_think_tokens, config.reward.missing_eos_penalty) == (300, 0.1)
    (tmp_path / "below.yaml").write_text(EARLIER)
    above = "reward: {max_think_tokens: 300}" if place else "max_think_tokens: 300"
    config = read(tmp_path, f"base: below.yaml\n{above}\n")
    assert config.max_think_tokens == config.reward.max_think_tokens == 300


def test_two_keys_that_mean_the_same_are_refused_where_one_place_gives_both_differently(tmp_path):
    words = refused(tmp_path, EARLIER, "max_think_tokens=300", "reward.max_think_tokens=400")
    assert words.endswith("max_think_tokens: 300 at the top level contradicts 400 in reward; remove one of the two")


def test_algo_follows_from_the_only_section_and_both_sections_are_validated(tmp_path):
    assert read(tmp_path, "grpo: {}\n").algo == "grpo"
    assert read(tmp_path, "ppo: {}\n").algo == "ppo"
    assert read(tmp_path, "algo: grpo\nppo: {}\n").section.num_generations == 8


@pytest.mark.parametrize(
    ("text", "batch_size"),
    [
        ("seed: 1\n", 128),
        ("ppo: {}\n", 128),
        ("algo: ppo\ngrpo: {}\n", 128),
        ("algo: grpo\n", 16),
        ("grpo: {num_generations: 4}\n", 32),
        ("completions: 64\n", 64),
        ("completions: 64\nbatch_size: 2\n", 2),
    ],
)
def test_the_demos_batch_has_as_many_completions_with_every_algorithm(tmp_path, text, batch_size):
    assert read(tmp_path, text, model=DemoConfig).batch_size == batch_size


def test_the_demos_batch_follows_from_sections_made_in_python_too():
    assert DemoConfig(grpo=GRPOSection(num_generations=4)).batch_size == 32


def test_a_base_is_laid_below_and_a_base_of_a_base_is_refused(tmp_path):
    (tmp_path / "below.yaml").write_text("seed: 7\nreward:\n  acc_weight: 0.9\n")
    config = read(tmp_path, "base: below.yaml\nreward:\n  think_bonus: 0.1\n")
    assert (config.seed, config.reward.acc_weight, config.reward.think_bonus) == (7, 0.9, 0.1)
    (tmp_path / "below.yaml").write_text("base: other.yaml\n")
    (tmp_path / "other.yaml").write_text("seed: 1\n")
    assert "one level is allowed" in refused(tmp_path, "base: below.yaml\n")


def test_a_missing_file_and_bad_utf8_give_one_sentence_errors(tmp_path):
    with pytest.raises(UserError, match="no such configuration file"):
        load(SftConfig, tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"seed: \xff\n")
    with pytest.raises(UserError, match="cannot be read"):
        load(SftConfig, tmp_path / "bad.yaml")


def test_a_configuration_cannot_be_changed():
    config = DemoConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1


@pytest.mark.parametrize(
    ("model", "override", "words"),
    [
        (StageAConfig, "lora.r=8", "did you mean learner.lora.r?"),
        (SftConfig, "learner.lora.r=8", "did you mean lora.r?"),
        (StageAConfig, "lora_r=8", "did you mean learner.lora.r?"),
        (StageAConfig, "lr=1", "did you mean learning_rate?"),
        (StageAConfig, "learner.lr=1", "did you mean learning_rate?"),
        (StageAConfig, "grpo.n=4", "did you mean grpo.num_generations?"),
        (StageAConfig, "num_generation=4", "did you mean grpo.num_generations?"),
        (StageAConfig, "workers=2", "did you mean reward.workers or rollout.workers?"),
        (StageAConfig, "GRPO.num_generations=4", "did you mean grpo.num_generations?"),
        (StageAConfig, "rewards.acc_weight=1", "did you mean reward.acc_weight?"),
        (StageAConfig, "zzz=1", "unknown key zzz at the top level; --help lists all keys"),
    ],
)
def test_an_unknown_key_is_answered_with_the_few_that_may_be_meant(tmp_path, model, override, words):
    assert refused(tmp_path, "seed: 1\n", override, model=model).endswith(words)
