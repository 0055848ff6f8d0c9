"""The roles on Ray: rollout and weight sync, reward, learner, placement. Each is a plain class first, an actor second."""
