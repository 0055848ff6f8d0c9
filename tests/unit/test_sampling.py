"""Seeds, groups and zero-spread groups."""

from r0 import sampling
from r0.actors.learner.batch import read_groups
from r0.records import Completions, Finish, PointwiseTask, Prompt, Rollout, Sampled, Scored, Verdict


def tasks(count):
    return [PointwiseTask(i, f"q{i}", "d", i % 2) for i in range(count)]


def scored(rewards_by_group):
    sampled = Sampled((7,), (-0.5,), Finish.STOP, 3)
    return [
        Scored(Rollout(task, g, sample, Prompt((1, 2, g)), sampled), f"{g}/{sample}", Verdict(None, 0, False), {"x": one}, one)
        for g, (task, rewards) in enumerate(zip(tasks(len(rewards_by_group)), rewards_by_group, strict=True))
        for sample, one in enumerate(rewards)
    ]


def test_a_seed_depends_on_its_address_and_on_nothing_else():
    one = sampling.sample_seed(42, 3, 17, 5)
    assert one == sampling.sample_seed(42, 3, 17, 5)
    others = {sampling.sample_seed(*address) for address in [(43, 3, 17, 5), (42, 4, 17, 5), (42, 3, 18, 5), (42, 3, 17, 6)]}
    assert len({one, *others, sampling.sample_seed(42, 3, 17, 5, 1)}) == 6
    assert 0 <= one < 2**63


def test_requests_of_a_prompt_stand_side_by_side():
    prompts = [Prompt((i,)) for i in range(2)]
    made = sampling.requests(tasks(2), prompts, 3, run_seed=1, step=0)
    assert [[request.prompt_ids for request in group] for group in made] == [[(0,)] * 3, [(1,)] * 3]
    assert len({request.seed for group in made for request in group}) == 6


def test_a_task_that_comes_twice_has_other_samples_the_second_time():
    (task,) = tasks(1)
    made = sampling.requests([task, task], [Prompt((0,))] * 2, 3, run_seed=1, step=0)
    assert made[:1] == sampling.requests([task], [Prompt((0,))], 3, run_seed=1, step=0)
    assert len({request.seed for group in made for request in group}) == 6


def test_groups_keep_their_prompt_rewards_and_version():
    unread = sampling.train_groups(sampling.grouped(scored([[1.0, 0.0], [0.5, 0.5]])))
    groups = read_groups(unread)
    assert [(one.lengths, one.rewards) for one in unread] == [(one.lengths, one.rewards) for one in groups]
    assert [group.prompt_ids for group in groups] == [(1, 2, 0), (1, 2, 1)]
    assert [one.reward for one in groups[0].completions] == [1.0, 0.0]
    assert groups[0].completions[0].version == 3


def test_groups_of_equal_rewards_have_no_spread():
    assert list(map(sampling.has_spread, sampling.grouped(scored([[1.0, 0.0], [0.5, 0.5]])))) == [True, False]


def test_rollouts_in_groups_are_the_same_rollouts():
    some = scored([[1.0, 0.0], [0.5, 0.5]])
    assert list(sampling.whole(sampling.grouped(some))) == some


def test_completions_keep_each_of_their_samples():
    some = [
        Sampled((7, 8), (-0.5, -1.2345678806304932), Finish.STOP, 3, (-0.1, -2.0)),
        Sampled((), (), Finish.LENGTH, 3),
        Sampled((2**31 - 1,), (float("-inf"),), Finish.LENGTH, 3, (-0.25,)),
    ]
    assert Completions.of(some).sampled() == some
