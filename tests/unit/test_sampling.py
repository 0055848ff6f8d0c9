"""Seeds, groups and zero-spread groups."""

from r0 import sampling
from r0.records import Finish, PointwiseTask, Prompt, Sampled, Scored, Verdict


def tasks(count):
    return [PointwiseTask(i, f"q{i}", "d", i % 2) for i in range(count)]


def scored(rewards_by_group):
    some, prompts = tasks(len(rewards_by_group)), [Prompt((1, 2, i)) for i in range(len(rewards_by_group))]
    size = len(rewards_by_group[0])
    sampled = [Sampled((7,), (-0.5,), Finish.STOP, 3)] * (size * len(some))
    rollouts = sampling.rollouts(some, prompts, sampled, size)
    rewards = [reward for group in rewards_by_group for reward in group]
    return [Scored(one, "", Verdict(None, 0, False), {"x": r}, r) for one, r in zip(rollouts, rewards, strict=True)]


def test_a_seed_depends_on_its_address_and_on_nothing_else():
    one = sampling.sample_seed(42, 3, 17, 5)
    assert one == sampling.sample_seed(42, 3, 17, 5)
    others = {sampling.sample_seed(*address) for address in [(43, 3, 17, 5), (42, 4, 17, 5), (42, 3, 18, 5), (42, 3, 17, 6)]}
    assert len({one, *others, sampling.sample_seed(42, 3, 17, 5, 1)}) == 6
    assert 0 <= one < 2**63


def test_requests_of_a_prompt_stand_side_by_side():
    prompts = [Prompt((i,)) for i in range(2)]
    made = sampling.requests(tasks(2), prompts, 3, run_seed=1, step=0)
    assert [request.prompt_ids for request in made] == [(0,)] * 3 + [(1,)] * 3
    assert len({request.seed for request in made}) == 6


def test_groups_keep_their_prompt_rewards_and_version():
    groups = sampling.train_groups(scored([[1.0, 0.0], [0.5, 0.5]]))
    assert [group.prompt_ids for group in groups] == [(1, 2, 0), (1, 2, 1)]
    assert [one.reward for one in groups[0].completions] == [1.0, 0.0]
    assert groups[0].completions[0].version == 3


def test_groups_of_equal_rewards_have_no_spread():
    assert sampling.spread_groups(scored([[1.0, 0.0], [0.5, 0.5]])) == {0}
