"""Text as tokens: tokenizers, prompts, spans and numbers, on device where it counts."""
