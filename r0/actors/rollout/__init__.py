"""The rollout role: sampling engines."""
