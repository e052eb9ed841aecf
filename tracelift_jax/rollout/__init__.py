"""From prompts to advantages: sample, execute, verify, score, reward."""
